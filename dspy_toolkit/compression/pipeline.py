"""The smallest model on which a program still passes its own metric."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dspy_toolkit.compiler.gate import WORSE, judge
from dspy_toolkit.compiler.statistics import mean_interval, paired_interval
from dspy_toolkit.compiler.trial import Trial
from dspy_toolkit.compression.build import models_folder
from dspy_toolkit.compression.calibration_sources import from_task
from dspy_toolkit.compression.costs import Costs
from dspy_toolkit.compression.goals import Goal
from dspy_toolkit.compression.journal import Journal
from dspy_toolkit.compression.pareto_plot import FILE as PLOT
from dspy_toolkit.compression.pareto_plot import pareto_plot
from dspy_toolkit.compression.plan import planned
from dspy_toolkit.compression.points import Point, front
from dspy_toolkit.compression.racing import Finish, Track, race
from dspy_toolkit.compression.subject import look_at
from dspy_toolkit.config import Settings
from dspy_toolkit.events import PhaseAdvanced, PhaseStarted, emit
from dspy_toolkit.store.files import sha256_json, storage_errors, write_json, write_text
from dspy_toolkit.store.lock import working_in

REPORT = "report.json"


@dataclass(frozen=True)
class PipelineOptions:
    """How a pipeline searches.

    Attributes:
        candidates: names from the plan's table; None takes all.
        block: examples between two looks at a candidate.
        margin: how far below the original's score is good enough where no goal says it.
        recompile: how many candidates that only the score keeps out get prompts of their own.
        seed: of the order of examples, and of compiling.
    """

    candidates: tuple[str, ...] | None = None
    block: int = 16
    margin: float = 0.02
    recompile: int = 0
    seed: int = 0


class Pipeline:
    """One search; a second one with the same question goes on where the first one stopped.

    Args:
        trial: the program with its examples and metric. A task's is compiled on the original model
            first.
        model: the original.
        goals: what a result must keep to.
        options: how to search.
        settings: where everything lies.
    """

    def __init__(
        self,
        trial: Trial,
        model: str,
        goals: Sequence[Goal],
        options: PipelineOptions,
        settings: Settings,
    ) -> None:
        self._settings = settings
        self._goals = list(goals)
        self._options = options
        self._subject = look_at(model, settings)
        self._trial = trial
        # Before a program is compiled: a name may be wrong.
        self._candidates, self._refused = planned(self._subject, options.candidates)
        key = sha256_json(
            {
                "model": self._subject.digest,
                "trial": self._trial.digest,
                "goals": [goal.text for goal in goals],
                "candidates": options.candidates,
                "options": [options.block, options.margin, options.recompile, options.seed],
            }
        )
        self.folder = settings.home / "compressions" / f"{self._trial.task.name}-{key[:12]}"

    def run(self) -> dict[str, Any]:
        """Search, and write report and plot into the pipeline's folder; returns the report.

        Raises:
            NotFound, InvalidInput, EngineError, StorageError: with what to do. What was built and
                scored is kept.
        """
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with working_in(self.folder, f"compression {self.folder.name}"):
            journal = Journal(self.folder)
            self._compile_first(journal)
            report = self._search(journal)
            write_json(self.folder / REPORT, report)
        return report

    def _compile_first(self, journal: Journal) -> None:
        if self._trial.artifact is not None:
            return
        kept = journal.get("program")
        if kept is None:
            made = self._trial.compiled_on(self._subject.reference, self._options.seed)
            kept = None if made is None else str(made)
            journal.put("program", kept)
        if kept is not None:
            self._trial = self._trial.with_program(Path(kept))

    def _search(self, journal: Journal) -> dict[str, Any]:
        # What candidates learn from must not be what they are raced on.
        data = from_task(self._trial, self._subject, self._settings, ("train",))
        costs = Costs(self._subject, self._goals, data, self._settings)
        points, failed = costs.built(self._candidates)
        original, *points = costs.timed([costs.original(), *points], journal)
        screened = costs.screened(points, original)
        runners = [point for point in screened if point.state != "screened out"]
        runners.sort(key=lambda point: (point.size_bytes, point.memory_bytes, point.kl or 0.0))
        raced, original, calls = self._kept_or_rolled_back(runners, original, journal)
        raced, extra = self._with_own_prompts(raced, original, journal)
        everything = [original, *raced, *(p for p in screened if p.state == "screened out")]
        return self._concluded(
            everything,
            {
                "calls": calls,
                "calls_recompiling": extra,
                "exhaustive_calls": (1 + len(points)) * len(self._order()),
                "refused": [vars(each) for each in self._refused] + failed,
            },
            journal,
        )

    def _order(self) -> tuple[int, ...]:
        """Numbers of the examples raced on, shuffled once."""
        numbers = list(range(len(self._pool())))
        random.Random(self._options.seed).shuffle(numbers)
        return tuple(numbers)

    def _pool(self) -> list[Any]:
        return self._trial.examples("validation")

    def _kept_or_rolled_back(
        self, runners: Sequence[Point], original: Point, journal: Journal
    ) -> tuple[list[Point], Point, int]:
        """Race; where the gate then calls the kept one worse, go on without it."""
        rolled: list[Point] = []
        while True:
            left = [point for point in runners if point.name not in {p.name for p in rolled}]
            raced, scored, calls = self._raced(left, original, journal)
            kept = [p for p in raced if p.state == "kept" and self._holds(p, scored)]
            if not kept or self._confirmed(kept[0], journal)["gate"]["verdict"] != WORSE:
                points = sorted([*raced, *rolled], key=lambda point: point.size_bytes)
                return points, scored, calls
            why = f"{kept[0].reason}, but worse on the test examples"
            rolled.append(replace(kept[0], state="rolled back", reason=why))

    def _raced(
        self, runners: Sequence[Point], original: Point, journal: Journal
    ) -> tuple[list[Point], Point, int]:
        pool, numbers = self._pool(), self._order()
        folders = {point.name: point.folder for point in runners}
        calls = 0
        emit(PhaseStarted("compress", "race", (1 + len(runners)) * len(numbers)))

        def scored(name: str, block: Sequence[int]) -> list[float]:
            nonlocal calls
            folder = folders.get(name, self._subject.reference)
            tried = self._trial.score(folder, [pool[i] for i in block])
            known = journal.get("scores") or {}
            scores = [*known.get(name, []), *tried.evaluation.scores]
            journal.put("scores", {**known, name: scores})
            calls += len(block)
            emit(PhaseAdvanced("compress", "race", calls, None))
            return tried.evaluation.scores

        known = journal.get("scores") or {}
        calls = sum(len(scores) for scores in known.values())
        before: list[float] = list(known.get("original", []))
        while len(before) < len(numbers):
            before += scored("original", numbers[len(before) : len(before) + self._options.block])
        track = Track(numbers, self._options.block, self._floor(before))
        finishes = race([p.name for p in runners], before, track, scored, known)
        named = {point.name: point for point in runners}
        return [_finished(named[f.name], f) for f in finishes], _scored(original, before), calls

    def _floor(self, before: Sequence[float]) -> float:
        """How far below the original's mean the goals let a score go, at most 0 as a rule."""
        mean = sum(before) / len(before)
        floors = [
            goal.limit if goal.relative else goal.limit - mean
            for goal in self._goals
            if goal.quantity == "score"
        ]
        return max(floors) if floors else -self._options.margin

    def _with_own_prompts(
        self, points: list[Point], original: Point, journal: Journal
    ) -> tuple[list[Point], int]:
        """Compile the program again on candidates that only their score keeps out."""
        cheaper = _before_the_kept(points)
        chosen = [point for point in cheaper if point.state == "dropped"][: self._options.recompile]
        numbers, pool = self._order(), self._pool()
        before = list((journal.get("scores") or {})["original"])
        calls, changed = 0, {point.name: point for point in points}
        for point in chosen:
            programs: dict[str, Any] = journal.get("programs") or {}
            if point.name not in programs:
                made = self._trial.compiled_on(point.folder, self._options.seed)
                programs[point.name] = None if made is None else str(made)
                journal.put("programs", programs)
            if programs[point.name] is None:
                continue
            own = self._trial.with_program(Path(programs[point.name]))
            tried = own.score(point.folder, [pool[i] for i in numbers])
            calls += len(numbers)
            scores = tried.evaluation.scores
            good = sum(scores) - sum(before) >= self._floor(before) * len(scores) - 1e-9
            better = _scored(replace(point, program=programs[point.name]), scores)
            said = f"{point.reason}; with prompts of its own {100 * (better.score or 0):.1f} %"
            state = "kept" if good else "dropped"
            changed[point.name] = replace(better, state=state, reason=said)
            if good:
                break
        return list(changed.values()), calls

    def _concluded(
        self, points: list[Point], facts: dict[str, Any], journal: Journal
    ) -> dict[str, Any]:
        original = points[0]
        kept = [p for p in points if p.state == "kept" and self._holds(p, original)]
        kept.sort(key=lambda point: (point.size_bytes, -(point.score or 0.0)))
        recommended = kept[0] if kept else None
        evidence = self._confirmed(recommended, journal) if recommended else None
        title = f"{self._trial.task.name} on {self._subject.name}"
        if any(point.score is not None for point in points):
            plot = pareto_plot(title, points, recommended.name if recommended else None)
            write_text(self.folder / PLOT, plot)
        return {
            "task": self._trial.task.name,
            "model": self._subject.reference,
            "digest": self._subject.digest,
            "goals": [goal.text for goal in self._goals],
            "folder": str(self.folder),
            "models": str(models_folder(self._settings)),
            "points": [point.to_dict() for point in points],
            "front": [point.name for point in front(points)],
            "recommended": recommended.name if recommended else None,
            "evidence": evidence,
            "nearest": None if recommended else self._nearest(points, original),
            "calls_confirming": sum(2 * len(pair[0]) for pair in _confirmations(journal)),
            **facts,
        }

    def _holds(self, point: Point, original: Point) -> bool:
        return all(goal.holds(point, original) for goal in self._goals)

    def _confirmed(self, point: Point, journal: Journal) -> dict[str, Any]:
        """The recommended point against the original on held-out examples, by the gate."""
        held = self._trial.examples("test")
        kept = journal.get("confirmed") or {}
        if point.name not in kept:
            own = self._trial.with_program(Path(point.program)) if point.program else self._trial
            pairs = [
                trial.score(folder, held).evaluation.scores
                for trial, folder in (
                    (self._trial, self._subject.reference),
                    (own, point.folder),
                )
            ]
            kept[point.name] = pairs
            journal.put("confirmed", kept)
        before, after = kept[point.name]
        judged = judge(before, after)
        low, high = paired_interval(before, after)
        return {
            "examples": len(held),
            "before": round(sum(before) / len(before), 6),
            "after": round(sum(after) / len(after), 6),
            "difference": round((sum(after) - sum(before)) / len(before), 6),
            "interval": [round(low, 6), round(high, 6)],
            "gate": judged.to_dict(),
        }

    def _nearest(self, points: Sequence[Point], original: Point) -> dict[str, Any] | None:
        """The point that misses the goals by least, and which it misses."""
        scored = [point for point in points if point.state != "original"] or list(points)
        if not scored or not self._goals:
            return None

        def missed(point: Point) -> float:
            return sum(min(goal.miss(point, original), 1e3) for goal in self._goals)

        best = min(scored, key=missed)
        return {
            "name": best.name,
            "misses": [
                {
                    "goal": goal.text,
                    "value": goal.value(best),
                    "bound": round(goal.bound(original), 6),
                }
                for goal in self._goals
                if not goal.holds(best, original)
            ],
        }


def _confirmations(journal: Journal) -> list[list[list[float]]]:
    return list((journal.get("confirmed") or {}).values())


def _finished(point: Point, finish: Finish) -> Point:
    scored = _scored(point, finish.scores) if finish.scores else point
    return replace(scored, state=finish.state, reason=finish.reason)


def _scored(point: Point, scores: Sequence[float]) -> Point:
    low, high = mean_interval(scores)
    return replace(
        point,
        score=round(sum(scores) / len(scores), 6),
        examples=len(scores),
        interval=(round(low, 6), round(high, 6)),
    )


def _before_the_kept(points: Sequence[Point]) -> list[Point]:
    names = [point.state for point in points]
    return list(points[: names.index("kept")] if "kept" in names else points)
