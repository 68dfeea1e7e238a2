from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dspy_toolkit.compiler import report as module
from dspy_toolkit.compiler.evaluation import Evaluation, Outcome
from dspy_toolkit.compiler.report import gate, read_report, scores, versions, write_report
from dspy_toolkit.errors import IntegrityError, NotFound

BOTH = (
    Evaluation((Outcome(0.0, "AdapterParseError: x", True), Outcome(0.5))),
    Evaluation((Outcome(1.0), Outcome(1.0))),
)
GOOD: dict[str, Any] = {
    "run": "20260101-000000-routing-0a1b",
    "task": "routing",
    "signature": None,
    "optimizer": "labeled_few_shot",
    "model": "embedded",
    "seed": 0,
    **scores(*BOTH),
    "gate": gate(*BOTH, 0.05, None),
    "calls": {"made": 4, "cached": 0},
    "seconds": 1.5,
    "artifact": "/somewhere",
    "candidates": [0.5, 1.0],
    "optimizer_options": {"k": 4, "stop_at_score": None},
    "model_string": "mlx/embedded#0123456789ab",
    "adapter": None,
    "prompt_format": "chat",
    "metric": "per_field",
    "data": {name: {"n": 2, "digest": "0" * 64} for name in ("train", "validation", "test")},
    "versions": versions(),
    "started_at": "2026-01-01T00:00:00+00:00",
}


def test_the_schema_itself_is_valid() -> None:
    text = Path(str(module.__file__)).with_name("report.schema.json").read_text()

    Draft202012Validator.check_schema(json.loads(text))

    assert json.loads(text)["additionalProperties"] is False


def test_a_report_survives_writing_and_reading(tmp_path: Path) -> None:
    write_report(tmp_path, GOOD)

    assert read_report(tmp_path) == GOOD


def test_scores_say_what_failed_and_what_was_gained() -> None:
    assert GOOD["baseline"]["score"] == 0.25
    assert GOOD["difference"]["score"] == 0.75
    assert GOOD["failures"]["baseline"] == {"count": 1, "first": "AdapterParseError: x"}
    assert GOOD["failures"]["compiled"] == {"count": 0, "first": None}


@pytest.mark.parametrize("key", sorted(GOOD))
def test_every_key_is_required(tmp_path: Path, key: str) -> None:
    report = {name: value for name, value in GOOD.items() if name != key}

    with pytest.raises(IntegrityError, match=f"'{key}' is a required property"):
        write_report(tmp_path, report)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("baseline", "score"), 1.2),
        (("compiled", "interval"), [0.1]),
        (("calls", "made"), -1),
        (("data", "test", "digest"), "xyz"),
        (("seconds",), "long"),
        (("extra",), 1),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, path: tuple[str, ...], value: Any) -> None:
    report = copy.deepcopy(GOOD)
    place = report
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value

    with pytest.raises(IntegrityError, match="does not fit its schema"):
        write_report(tmp_path, report)


def test_a_damaged_or_missing_report_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(IntegrityError, match="is a required property"):
        read_report(tmp_path)


def test_versions_name_python_platform_and_dspy() -> None:
    assert {"python", "platform", "dspy", "mlx"} <= versions().keys()
