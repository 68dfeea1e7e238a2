"""Metrics: how good one answer is, from 0 to 1, by name or from the user's own file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import dspy

from dspy_toolkit.errors import InvalidInput, nearest, reject_unknown_keys
from dspy_toolkit.programs.compare import (
    LIST_RULES,
    Rules,
    agreement,
    as_number,
    close,
    plain,
    token_f1,
)
from dspy_toolkit.programs.judge import Judge, judge_rule
from dspy_toolkit.programs.user_code import failure, load_function

Rule: TypeAlias = Callable[[dspy.Example, dspy.Prediction, Any], Any]
Locate: TypeAlias = Callable[[dspy.Example], str]


class MetricError(InvalidInput):
    """A metric raised, or returned something that is no score."""


def _unplaced(example: dspy.Example) -> str:
    return f"an example with inputs {str(example.inputs().toDict())[:80]}"


@dataclass(frozen=True)
class Metric:
    """Scores a prediction, the way DSPy calls metrics.

    Attributes:
        name: as in `task.toml`, the file's path in the task's folder, or the function's name.
        rule: gives the score.
        threshold: least score at which an answer may become a demonstration.
        locate: says where an example stands, for messages.
        file: where the user's own rule stands, or None.
    """

    name: str
    rule: Rule
    threshold: float = 1.0
    locate: Locate = _unplaced
    file: Path | None = None

    def __call__(
        self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None
    ) -> float | bool:
        """The score in [0, 1]; with a trace, whether it reaches the threshold.

        Raises:
            MetricError: the rule raised, or its result is no number in [0, 1]. What a language
                model raises inside the rule passes through.
        """
        score = self._checked(self._value(example, prediction, trace), example)
        return score if trace is None else score >= self.threshold

    def feedback(self, example: dspy.Example, prediction: dspy.Prediction) -> str | None:
        """What the user's own metric says of an answer in words, for optimizers that read it.

        None where it gives a number alone, as the toolkit's own metrics do.
        """
        if self.file is None:
            return None
        told = getattr(self._value(example, prediction, None), "feedback", None)
        return str(told) if told else None

    def located(self, locate: Locate) -> Metric:
        """The same metric, naming examples in its own way."""
        return replace(self, locate=locate)

    def close(self) -> None:
        """Give back the model that a judge has opened; its next answer opens it again."""
        if isinstance(self.rule, Judge):
            self.rule.close()

    def _value(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any) -> Any:
        try:
            return self.rule(example, prediction, trace)
        except dspy.DSPyError:
            raise
        except MetricError as error:
            raise MetricError(f"metric {self.name} {error} ({self.locate(example)})") from None
        except Exception as error:
            raise MetricError(
                f"metric {failure(error, self.file or Path(self.name))} "
                f"on {self.locate(example)}; mend it"
            ) from error

    def _checked(self, value: Any, example: dspy.Example) -> float:
        # DSPy's feedback metrics return an object with a score.
        value = getattr(value, "score", value)
        try:
            number = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0.0 <= number <= 1.0:
            raise MetricError(
                f"metric {self.name} returned {value!r} on {self.locate(example)}; "
                "it must return a number from 0 to 1"
            )
        return number


def metric_from_file(file: Path, name: str | None = None, threshold: float = 1.0) -> Metric:
    """The user's metric: `def metric(example, prediction, trace=None)` in a Python file.

    Args:
        file: the file.
        name: what the metric is called, the same on every machine; else the file's last part.
        threshold: least score at which an answer may become a demonstration.

    Raises:
        NotFound, InvalidInput: the file is missing, cannot be run or has no such function.
    """
    return Metric(name or file.name, load_function(file, "metric"), threshold, file=file)


def as_metric(metric: str | Metric | Callable[..., Any], fields: Sequence[str]) -> Metric:
    """A metric from its name or from a function of the user's.

    Args:
        metric: a metric's name, a metric, or `(example, prediction, trace=None) -> float`.
        fields: the output fields that a metric given by name compares.

    Raises:
        InvalidInput: no metric has this name, or it is no function.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        return named_metric(metric, fields)
    if not callable(metric):
        raise InvalidInput(f"metric {metric!r} is neither a metric's name nor a function")
    code = getattr(metric, "__code__", None)
    file = Path(code.co_filename) if code else None
    return Metric(getattr(metric, "__name__", "metric"), metric, file=file)


def named_metric(
    name: str, fields: Sequence[str], options: Mapping[str, Any] | None = None
) -> Metric:
    """A metric of the toolkit.

    Args:
        name: `exact`, `per_field`, `f1`, `numeric` or `judge`.
        fields: the output fields to compare.
        options: by name: `threshold`, and those that `METRICS` lists for the metric.

    Raises:
        InvalidInput: no such metric or option, or a value that does not fit.
    """
    if name not in METRICS:
        raise InvalidInput(f"metric {name!r} does not exist; {nearest(name, METRICS)}")
    kind = METRICS[name]
    given = dict(options or {})
    reject_unknown_keys(given, (*kind.options, "threshold"), f"metric {name}")
    threshold = fraction("threshold", given.pop("threshold", kind.threshold))
    return Metric(name, kind.make(tuple(fields), given), threshold)


def fraction(name: str, value: Any) -> float:
    """A metric's option that must be a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidInput(f"metric option {name} must be a number from 0 to 1, got {value!r}")
    return float(value)


@dataclass(frozen=True)
class MetricKind:
    """One row of the table of metrics."""

    description: str
    make: Callable[[tuple[str, ...], dict[str, Any]], Rule]
    options: tuple[str, ...] = ()
    threshold: float = 1.0


def _exact(fields: tuple[str, ...], options: dict[str, Any]) -> Rule:
    compare = _per_field(fields, options)
    return lambda example, prediction, trace: float(compare(example, prediction, trace) == 1.0)


def _per_field(fields: tuple[str, ...], options: dict[str, Any]) -> Rule:
    rules = _rules(options)
    return _mean_over(fields, lambda right, given: agreement(right, given, rules))


def _f1(fields: tuple[str, ...], options: dict[str, Any]) -> Rule:
    def score(right: Any, given: Any) -> float:
        return 0.0 if given is None else token_f1(_text(right), _text(given))

    return _mean_over(fields, score)


def _numeric(fields: tuple[str, ...], options: dict[str, Any]) -> Rule:
    tolerance = _rules({"tolerance": 0.01, **options}).tolerance

    def score(right: Any, given: Any) -> float:
        wanted, number = as_number(right), as_number(given)
        if wanted is None:
            raise MetricError(f"compares numbers, but the right value {right!r} is none")
        return float(number is not None and close(wanted, number, tolerance))

    return _mean_over(fields, score)


def _judge(fields: tuple[str, ...], options: dict[str, Any]) -> Rule:
    return judge_rule(fields, **options)


def _rules(options: Mapping[str, Any]) -> Rules:
    lists = options.get("lists", Rules.lists)
    if lists not in LIST_RULES:
        raise InvalidInput(f"metric option lists is {lists!r}; {nearest(str(lists), LIST_RULES)}")
    tolerance = options.get("tolerance", Rules.tolerance)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or tolerance < 0:
        raise InvalidInput(f"metric option tolerance must be 0 or more, got {tolerance!r}")
    return Rules(float(tolerance), lists)


def _mean_over(fields: tuple[str, ...], score: Callable[[Any, Any], float]) -> Rule:
    def rule(example: dspy.Example, prediction: dspy.Prediction, trace: Any) -> float:
        return fmean(
            score(plain(example.get(name)), plain(getattr(prediction, name, None)))
            for name in fields
        )

    return rule


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


METRICS: dict[str, MetricKind] = {
    "exact": MetricKind("1 when every field is right, otherwise 0", _exact, ("tolerance", "lists")),
    "per_field": MetricKind(
        "share of the fields that are right", _per_field, ("tolerance", "lists")
    ),
    "f1": MetricKind("words shared with the right text, F1", _f1, threshold=0.8),
    "numeric": MetricKind("1 when the number is near enough", _numeric, ("tolerance",)),
    "judge": MetricKind(
        "what a language model says of the answer", _judge, ("model", "criteria"), threshold=0.75
    ),
}
