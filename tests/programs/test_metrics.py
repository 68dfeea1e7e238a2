from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_toolkit.errors import InvalidInput, NotFound, UnknownKey
from dspy_toolkit.programs.metrics import (
    METRICS,
    Metric,
    MetricError,
    as_metric,
    metric_from_file,
    named_metric,
)

EXAMPLE = dspy.Example(text="t", team="atlas", total=10.0, goods=["cup", "pan"]).with_inputs("text")


def score(
    name: str, fields: list[str], options: dict[str, Any] | None = None, **answer: Any
) -> Any:
    return named_metric(name, fields, options)(EXAMPLE, dspy.Prediction(**answer))


def test_exact_wants_every_field() -> None:
    assert score("exact", ["team", "total"], team="Atlas", total=10) == 1.0
    assert score("exact", ["team", "total"], team="atlas", total=11) == 0.0


def test_per_field_is_the_share_of_right_fields() -> None:
    assert score("per_field", ["team", "total"], team="atlas", total=11) == 0.5
    assert score("per_field", ["team"], team="comet") == 0.0


def test_per_field_gives_lists_partial_credit_when_told_to() -> None:
    whole = score("per_field", ["goods"], goods=["pan"])
    part = score("per_field", ["goods"], {"lists": "overlap"}, goods=["pan"])

    assert whole == 0.0
    assert part == pytest.approx(2 / 3)


def test_a_missing_answer_field_scores_zero() -> None:
    assert score("f1", ["team"]) == 0.0
    assert score("per_field", ["team"]) == 0.0


def test_numeric_allows_its_tolerance() -> None:
    assert score("numeric", ["total"], total="10.09 dollars") == 1.0
    assert score("numeric", ["total"], {"tolerance": 0.5}, total=14) == 1.0
    assert score("numeric", ["total"], total=11) == 0.0


def test_numeric_says_when_the_right_value_is_no_number() -> None:
    with pytest.raises(MetricError, match="'atlas' is none"):
        score("numeric", ["team"], team="3")


def test_with_a_trace_the_threshold_decides() -> None:
    metric = named_metric("per_field", ["team", "total"], {"threshold": 0.5})
    half = dspy.Prediction(team="atlas", total=0)

    assert metric(EXAMPLE, half, trace=[]) is True
    assert metric(EXAMPLE, half) == 0.5
    assert named_metric("per_field", ["team", "total"])(EXAMPLE, half, trace=[]) is False


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("exactt", {}, "did you mean 'exact'"),
        ("exact", {"tolerence": 1}, "unknown key 'tolerence'; did you mean 'tolerance'"),
        ("exact", {"threshold": 2}, "threshold must be a number from 0 to 1, got 2"),
        ("per_field", {"lists": "overlapp"}, "did you mean 'overlap'"),
        ("numeric", {"tolerance": -1}, "tolerance must be 0 or more, got -1"),
        ("judge", {"model": 3}, "model must be a text, got 3"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        named_metric(name, ["team"], options)


def test_options_of_other_metrics_are_unknown_keys() -> None:
    with pytest.raises(UnknownKey):
        named_metric("f1", ["team"], {"lists": "ordered"})


def test_every_metric_has_a_description_and_a_threshold() -> None:
    assert all(kind.description and 0 <= kind.threshold <= 1 for kind in METRICS.values())


def custom(folder: Path, body: str) -> Metric:
    file = folder / "metric.py"
    file.write_text(f"def metric(example, prediction, trace=None):\n    {body}\n")
    return metric_from_file(file).located(lambda example: "data/test.jsonl:4")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return prediction.team == example.team", 1.0),
        ("return 0.25", 0.25),
        ("import dspy; return dspy.Prediction(score=0.5, feedback='ok')", 0.5),
        ("import numpy; return numpy.float32(0.5)", 0.5),
    ],
)
def test_the_users_metric_may_return_any_kind_of_score(
    tmp_path: Path, body: str, expected: float
) -> None:
    assert custom(tmp_path, body)(EXAMPLE, dspy.Prediction(team="atlas")) == expected


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("return float('nan')", "returned nan on data/test.jsonl:4"),
        ("return 57", "returned 57 on"),
        ("return -0.1", "returned -0.1 on"),
        ("return 'good'", "returned 'good' on"),
        ("return None", "returned None on"),
        ("return [1, 2]", r"returned \[1, 2\] on"),
    ],
)
def test_what_is_no_score_is_refused_with_its_place(tmp_path: Path, body: str, shown: str) -> None:
    with pytest.raises(MetricError, match=shown) as raised:
        custom(tmp_path, body)(EXAMPLE, dspy.Prediction())

    assert "\n" not in str(raised.value)
    assert "number from 0 to 1" in str(raised.value)


def test_a_metric_that_raises_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"metric\.py:2: KeyError: 'x' on data/test\.jsonl:4"):
        custom(tmp_path, "return {}['x']")(EXAMPLE, dspy.Prediction())


def test_a_metric_from_a_file_is_called_the_same_on_every_machine(tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text("def metric(example, prediction, trace=None): return 2\n")

    metric = metric_from_file(tmp_path / "metric.py", "own/metric.py")

    assert (metric.name, metric.file) == ("own/metric.py", tmp_path / "metric.py")
    with pytest.raises(MetricError, match=r"^metric own/metric\.py returned 2"):
        metric(EXAMPLE, dspy.Prediction())


def test_a_function_becomes_a_metric_that_is_named_with_its_line() -> None:
    def near(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
        weights: dict[str, float] = {}
        return weights["x"]

    assert as_metric("exact", ["team"])(EXAMPLE, dspy.Prediction(team="atlas")) == 1.0
    with pytest.raises(MetricError, match=r"test_metrics\.py:\d+: KeyError: 'x'"):
        as_metric(near, ["team"])(EXAMPLE, dspy.Prediction())
    with pytest.raises(InvalidInput, match="3 is neither a metric's name nor a function"):
        as_metric(3, ["team"])  # type: ignore[arg-type]


def test_what_a_model_raises_inside_a_metric_is_not_the_metrics_fault(tmp_path: Path) -> None:
    with pytest.raises(dspy.LMError):
        custom(tmp_path, "import dspy; raise dspy.LMError('down')")(EXAMPLE, dspy.Prediction())


def test_a_metric_file_without_the_function_says_what_to_add(tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text("def metrics(e, p): return 1\n")

    with pytest.raises(InvalidInput, match="no function 'metric'; did you mean 'metrics'"):
        metric_from_file(tmp_path / "metric.py")
    with pytest.raises(NotFound):
        metric_from_file(tmp_path / "none.py")


def test_scores_are_finite_numbers() -> None:
    value = score("f1", ["team"], team="atlas team")

    assert isinstance(value, float)
    assert math.isfinite(value)
