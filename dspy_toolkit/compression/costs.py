"""What candidates cost: built, measured, and left out where the cost alone decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from dspy_toolkit.compression.build import build, order
from dspy_toolkit.compression.calibration import CalibrationSet
from dspy_toolkit.compression.divergence import Reference
from dspy_toolkit.compression.goals import Goal
from dspy_toolkit.compression.journal import Journal
from dspy_toolkit.compression.opened import open_subject, working_device
from dspy_toolkit.compression.plan import Candidate
from dspy_toolkit.compression.points import Point
from dspy_toolkit.compression.speed import quantile, replay_s
from dspy_toolkit.compression.subject import Subject, look_at
from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, describe_model
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.events import PhaseAdvanced, PhaseStarted, emit
from dspy_toolkit.training.packing import Row

_REPLAYED, _LATENCY_ROUNDS = 6, 3


class Costs:
    """Makes candidates and measures what they cost; no program is run.

    Args:
        subject: the original.
        goals: what a result must keep to.
        data: what candidates learn from and are measured on.
        settings: where everything lies.
    """

    def __init__(
        self, subject: Subject, goals: Sequence[Goal], data: CalibrationSet, settings: Settings
    ) -> None:
        self._subject = subject
        self._goals = goals
        self._data = data
        self._settings = settings

    def original(self) -> Point:
        """The model that everything is compared with."""
        return replace(self._point("original", self._subject), state="original", kl=0.0)

    def _point(self, name: str, subject: Subject) -> Point:
        facts = describe_model(str(subject.folder), EngineOptions(), self._settings)
        return Point(
            name=name,
            folder=str(subject.folder),
            program=None,
            size_bytes=subject.nbytes,
            memory_bytes=facts.weight_bytes,
            parameters=subject.parameters,
        )

    def built(self, candidates: Sequence[Candidate]) -> tuple[list[Point], list[dict[str, str]]]:
        """Make every candidate; one that cannot be made is told, not fatal."""
        points: list[Point] = []
        failed: list[dict[str, str]] = []
        emit(PhaseStarted("compress", "build", len(candidates)))
        for done, candidate in enumerate(candidates, start=1):
            folder = self._subject.reference
            kl: float | None = None
            try:
                for step in candidate.steps:
                    wanted = order(folder, step.technique, step.options, self._data, self._settings)
                    made = build(wanted, self._settings)
                    folder, kl = str(made.folder), made.measures.get("kl")
                    if len(candidate.steps) > 1 and step is candidate.steps[-1]:
                        # Its own measure is against the step before.
                        held = self._data.held
                        kl = kl_to_original(self._subject, folder, held, self._settings)
            except ToolkitError as error:
                failed.append({"name": candidate.name, "reason": str(error)})
                continue
            subject = look_at(folder, self._settings)
            points.append(replace(self._point(candidate.name, subject), kl=kl, state="runs"))
            emit(PhaseAdvanced("compress", "build", done, None))
        return points, failed

    def timed(self, points: list[Point], journal: Journal) -> list[Point]:
        """Latency of one call alone, models taking turns; only where a goal asks for it."""
        if not any(goal.quantity == "latency" for goal in self._goals):
            return points
        known: dict[str, list[float]] = journal.get("latency") or {}
        missing = [point for point in points if point.folder not in known]
        if missing:
            # Measured anew for all of them: times of two sittings cannot be compared.
            folders = [point.folder for point in points]
            known = latencies(folders, self._data.held[:_REPLAYED], self._settings)
            journal.put("latency", known)
        return [
            replace(
                point,
                latency_p50_s=round(quantile(known[point.folder], 0.5), 6),
                latency_p95_s=round(quantile(known[point.folder], 0.95), 6),
            )
            for point in points
        ]

    def screened(self, points: Sequence[Point], original: Point) -> list[Point]:
        """Leave out before any program call what cannot be the answer."""
        costs = [goal for goal in self._goals if goal.quantity != "score"]
        kept: list[Point] = []
        for point in points:
            missed = [goal.text for goal in costs if not goal.holds(point, original)]
            rival = nearer_at_no_cost(point, points)
            reason = (
                f"misses {', '.join(missed)}"
                if missed
                else f"{rival.name} costs no more and is nearer to the original"
                if rival
                else ""
            )
            kept.append(replace(point, state="screened out", reason=reason) if reason else point)
        return kept


def latencies(
    folders: Sequence[str], rows: Sequence[Row], settings: Settings
) -> dict[str, list[float]]:
    """Seconds of calls alone by model, models taking turns."""
    device = working_device(settings)
    times: dict[str, list[float]] = {folder: [] for folder in folders}
    emit(PhaseStarted("compress", "latency", _LATENCY_ROUNDS))
    with mx.stream(device.kind):
        for round_ in range(_LATENCY_ROUNDS):
            for folder in folders:
                # One at a time in memory: together they may not fit.
                model = open_subject(look_at(folder, settings), device).model
                replay_s(model, rows[0])
                times[folder] += [replay_s(model, row) for row in rows]
            emit(PhaseAdvanced("compress", "latency", round_ + 1, None))
    return times


def kl_to_original(
    original: Subject, folder: str, rows: Sequence[Row], settings: Settings
) -> float:
    """How far a model's answers are from the original's, however many steps lie between."""
    device = working_device(settings)
    with mx.stream(device.kind):
        vocabulary = int(original.config.get("vocab_size") or 256)
        reference = Reference(open_subject(original, device).model, rows, vocabulary)
        other = open_subject(look_at(folder, settings), device)
        return round(reference.compare_kl(other.model), 6)


def nearer_at_no_cost(point: Point, points: Sequence[Point]) -> Point | None:
    """A candidate that costs no more in anything and diverges less."""
    for other in points:
        if other is point or point.kl is None or other.kl is None:
            continue
        cheap = (
            other.size_bytes <= point.size_bytes
            and other.memory_bytes <= point.memory_bytes
            and (other.latency_p50_s or 0.0) <= 1.02 * (point.latency_p50_s or 0.0)
        )
        if cheap and (other.kl, other.name) < (point.kl, point.name):
            return other
    return None
