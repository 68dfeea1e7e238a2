"""The candidates an optimizer tries: told as events, kept in the run's folder, drawn as a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from dspy_toolkit.compiler.candidate_files import CandidateRecord, write_candidate
from dspy_toolkit.compiler.dspy_scope import last_failures
from dspy_toolkit.compiler.plot import FILE as PLOT
from dspy_toolkit.compiler.plot import Point, score_plot
from dspy_toolkit.compiler.statistics import mean_interval
from dspy_toolkit.errors import StorageError
from dspy_toolkit.events import CandidateScored, Event, emit
from dspy_toolkit.programs.calls import CallTally
from dspy_toolkit.programs.limits import Cost
from dspy_toolkit.store.files import storage_errors, write_text

FILE = "candidates.jsonl"


@dataclass(frozen=True)
class Keeping:
    """Where the candidates of a run are kept.

    Attributes:
        run: its id.
        folder: of the run.
        locate: says where an example stands.
    """

    run: str
    folder: Path
    locate: Callable[[dspy.Example], str]


class CandidateWatch(BaseCallback):  # type: ignore[misc]  # DSPy ships no types
    """Hears from DSPy how each candidate of a run scored, keeps it, and tells it as an event.

    Args:
        keeping: where to.
        tally: of the run's calls; its ledger keeps back what scoring a candidate will cost.
        final: number of examples that the result is scored on at the end.

    Attributes:
        scores: of all candidates so far.
        best: the best candidate on the largest set of examples, or None.
    """

    def __init__(self, keeping: Keeping, tally: CallTally, final: int) -> None:
        self._keeping = keeping
        self._tally = tally
        self._final = final
        self._begun: dict[str, tuple[dspy.Module, Cost]] = {}
        self._rank = (0, 0.0)
        self._failure: StorageError | None = None
        self.scores: list[float] = []
        self.best: dspy.Module | None = None

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """As DSPy calls it."""
        self._begun[call_id] = (inputs["program"], self.spent())

    def on_evaluate_end(
        self, call_id: str, outputs: Any, exception: BaseException | None = None
    ) -> None:
        """As DSPy calls it; `outputs` is missing where the evaluation did not end."""
        program, before = self._begun.pop(call_id)
        if outputs is None:
            return
        scored = [(example, float(score)) for example, *_, score in outputs.results]
        self.scored(program, scored, last_failures(), self.spent() - before)

    def spent(self) -> Cost:
        """What was spent so far, for `lead`, where an optimizer scores candidates by itself."""
        ledger = self._tally.ledger
        seconds = 0.0 if ledger is None else ledger.spent.seconds
        return replace(self._tally.asked, seconds=seconds)

    def scored(
        self,
        program: dspy.Module,
        scored: Sequence[tuple[dspy.Example, float]],
        failed: Mapping[int, str],
        spent: Cost,
    ) -> None:
        """A candidate was scored by itself, at this cost; see `tell` and `lead`."""
        self.lead(program, [score for _, score in scored], spent, len(scored))
        self.tell(program, scored, failed)

    def lead(self, program: dspy.Module, found: Sequence[float], spent: Cost, scored: int) -> None:
        """A candidate is ahead of those scored with it, or alone.

        Args:
            program: the candidate.
            found: its scores.
            spent: on scoring it and all that were scored with it.
            scored: examples that this was spent on, over all of them.
        """
        rank = (len(found), round(fmean(found), 6))
        if self.best is None or rank > self._rank:
            self._rank = rank
            self.best = program.deepcopy()
        if self._tally.ledger is not None:
            self._tally.ledger.keep_back(spent.times(self._final / scored))

    def tell(
        self,
        program: dspy.Module,
        scored: Sequence[tuple[dspy.Example, float]],
        failed: Mapping[int, str],
    ) -> None:
        """A candidate has these scores on these examples; `failed` says why, by their numbers."""
        scores = tuple(round(score, 6) for _, score in scored)
        score = round(fmean(scores), 6)
        self.scores.append(score)
        calls = self._tally.calls
        run, number = self._keeping.run, len(self.scores)
        places = [self._keeping.locate(example) for example, _ in scored]
        self._keep(program, number, list(zip(places, scores, strict=True)), failed)
        emit(CandidateScored(run, number, score, scores, calls.made, calls.cached))

    def check(self) -> None:
        """Raise `StorageError` if a candidate could not be kept."""
        if self._failure is not None:
            raise self._failure

    def _keep(
        self,
        program: dspy.Module,
        number: int,
        scored: Sequence[tuple[str, float]],
        failed: Mapping[int, str],
    ) -> None:
        record = CandidateRecord(
            candidate=number,
            score=self.scores[-1],
            prompts=_prompts(program),
            examples=[
                {"example": place, "score": score, "error": failed.get(index)}
                for index, (place, score) in enumerate(scored)
            ],
        )
        try:
            write_candidate(self._keeping.folder, record)
        except StorageError as error:
            self._failure = error


class CandidateLog:
    """Hears of a run's candidates and keeps file and plot up to date.

    What cannot be written is noted, since events must not fail; `check` raises.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder
        self._run = run
        self._points: list[Point] = []
        self._failure: StorageError | None = None

    def __call__(self, event: Event) -> None:
        """Keep a candidate, unless it belongs to another run."""
        if not isinstance(event, CandidateScored) or event.run != self._run:
            return
        self._points.append(_point(event))
        line = f"{json.dumps(asdict(event))}\n"
        try:
            self._add(line)
            write_text(self._folder / PLOT, score_plot(self._run, self._points))
        except StorageError as error:
            self._failure = error

    def _add(self, line: str) -> None:
        place = self._folder / FILE
        if len(self._points) == 1:
            # A run that goes on tells all of them again.
            write_text(place, line)
            return
        with storage_errors(place), place.open("a", encoding="utf-8") as file:
            file.write(line)

    def check(self) -> None:
        """Raise `StorageError` if a candidate could not be kept."""
        if self._failure is not None:
            raise self._failure


def _point(scored: CandidateScored) -> Point:
    calls = scored.calls_made + scored.calls_cached
    return Point(calls, scored.score, mean_interval(scored.scores))


def _prompts(program: dspy.Module) -> list[dict[str, Any]]:
    """Instructions, demonstrations and fitted decisions of a program's steps, as JSON values."""
    steps = [
        {
            "step": name,
            "instructions": step.signature.instructions,
            "demos": [dict(demo) for demo in step.demos],
            **({"decisions": step.fields} if step.fields else {}),
        }
        for name, step in program.named_predictors()
    ]
    plain: list[dict[str, Any]] = json.loads(json.dumps(steps, default=str))
    return plain
