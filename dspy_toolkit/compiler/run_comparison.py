"""Two runs side by side: which settings differ, and whose result is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dspy_toolkit.compiler.gate import ALPHA, Judgement, judge
from dspy_toolkit.compiler.outcomes import ExampleScore, read_outcomes
from dspy_toolkit.compiler.runs import PLAN, Run
from dspy_toolkit.compiler.statistics import paired_interval
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.store.files import read_json

_SETTINGS = (
    "task", "signature", "optimizer", "optimizer_options", "model", "model_string", "adapter",
    "seed", "prompt_format", "metric", "data", "versions",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Results of two runs.

    Attributes:
        difference: the second score minus the first, in [-1, 1].
        interval: its 95 % paired interval, where the runs can be paired.
        judgement: whether the second is better, where the runs can be paired.
        unpaired: why they cannot be, or None.
    """

    difference: float
    interval: tuple[float, float] | None = None
    judgement: Judgement | None = None
    unpaired: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        values = asdict(self)
        return {**values, "interval": values["interval"] and list(values["interval"])}


def differing_settings(first: Run, second: Run) -> dict[str, tuple[Any, Any]]:
    """Settings in which two runs differ, by dotted name, with both values; None where absent.

    Where one has no report, their plans are looked at; where it has no plan either, task,
    optimizer, model and seed alone.
    """
    ours, theirs = _settings(first), _settings(second)
    names = ours.keys() | theirs.keys()
    if not (first.report and second.report):
        names = ours.keys() & theirs.keys()
        plans = _planned(first), _planned(second)
        if all(plans):
            ours, theirs = plans
            names = ours.keys() | theirs.keys()
    return {
        name: (ours.get(name), theirs.get(name))
        for name in sorted(names)
        if ours.get(name) != theirs.get(name)
    }


def compare_runs(first: Run, second: Run, alpha: float = ALPHA) -> Comparison:
    """Compare what two runs made, example by example where both were scored on the same ones.

    Raises:
        InvalidInput: one has no result to compare.
        IntegrityError: its scores are damaged.
    """
    for run in (first, second):
        if run.facts()["compiled"] is None:
            raise InvalidInput(
                f"run {run.row.id} has no compiled score ({run.status}); compare finished runs"
            )
    difference = second.report["compiled"]["score"] - first.report["compiled"]["score"]
    ours, theirs = (read_outcomes(run.folder).get("compiled", []) for run in (first, second))
    unpaired = _unpaired(first.report, second.report) or _unmatched(ours, theirs)
    if unpaired:
        return Comparison(round(difference, 6), unpaired=unpaired)
    before, after = [each.score for each in ours], [each.score for each in theirs]
    low, high = paired_interval(before, after)
    interval = round(low, 6), round(high, 6)
    return Comparison(round(difference, 6), interval, judge(before, after, alpha))


def _settings(run: Run) -> dict[str, Any]:
    row = {key: getattr(run.row, key) for key in ("task", "optimizer", "model", "seed")}
    return dict(_flat({**row, **{key: run.report.get(key) for key in _SETTINGS if run.report}}))


def _planned(run: Run) -> dict[str, Any]:
    file = run.folder / PLAN
    return dict(read_json(file, "plan")["facts"]) if file.is_file() else {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _unpaired(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    if first["data"]["test"]["digest"] != second["data"]["test"]["digest"]:
        return "their test examples differ"
    if first["metric"] != second["metric"]:
        return f"their metrics differ: {first['metric']} and {second['metric']}"
    return None


def _unmatched(first: list[ExampleScore], second: list[ExampleScore]) -> str | None:
    if not first or len(first) != len(second):
        return "the score of every example was not kept by both"
    return None
