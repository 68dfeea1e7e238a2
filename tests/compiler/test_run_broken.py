"""Runs that break on the way: one line, a marked row, and no half artifact."""

from __future__ import annotations

import os
import resource
import signal
import threading
from pathlib import Path

import dspy
import pytest

from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.compiler.scoring import score_path
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import EngineError, InvalidInput, StorageError
from dspy_toolkit.programs.metrics import MetricError
from dspy_toolkit.programs.task import load_task
from tests.compiler.running import SEARCHED, compiled, only_run
from tests.engine.tiny import write_model
from tests.programs.tasks import TASK, learner, right, scripted_lm, write_task


def test_ctrl_c_marks_the_run_and_leaves_no_artifact(tmp_path: Path, settings: Settings) -> None:
    asked: list[str] = []

    def answer(request: str) -> str:
        asked.append(request)
        if len(asked) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return right(request)

    with pytest.raises(KeyboardInterrupt):
        compiled(tmp_path / "routing", settings, scripted_lm(answer), SEARCHED)
    row, folder = only_run(settings)

    assert row.status == "interrupted"
    assert "interrupted" in (folder / "run.log").read_text().splitlines()[-1]
    assert "model call failed" not in (folder / "run.log").read_text()
    assert not (folder / "artifact").exists()
    assert not (folder / "report.json").exists()


def test_a_metric_at_fault_inside_an_optimizer_ends_the_run(
    tmp_path: Path, settings: Settings
) -> None:
    text = SEARCHED.replace('name = "per_field"', 'file = "metric.py"')
    folder = write_task(tmp_path / "routing", text)
    (folder / "metric.py").write_text(
        "def metric(example, prediction, trace=None):\n"
        "    return 2.0 if example.text == 'validation message 3' else 0.5\n"
    )
    lm = scripted_lm(learner)

    with pytest.raises(MetricError, match=r"returned 2\.0 on data/validation\.jsonl:4"):
        compile_task(folder, CompileOptions(lm=lm), settings)
    row, _ = only_run(settings)

    assert row.status == "failed"
    assert "validation.jsonl:4" in str(row.error)
    assert len(lm.engine.requests) < 12 + 4 * 6


def test_more_failures_than_dspy_allows_do_not_end_a_run(
    tmp_path: Path, settings: Settings
) -> None:
    text = SEARCHED.replace("[metric]", 'format = "chat_only"\n[metric]')
    result = compiled(tmp_path / "routing", settings, scripted_lm(lambda request: "hm"), text)

    assert result.report["compiled"]["score"] == 0.0
    assert result.report["failures"]["baseline"]["count"] == 12
    assert "AdapterParseError" in result.report["failures"]["baseline"]["first"]


def test_a_model_that_breaks_is_one_line_and_a_failed_run(
    tmp_path: Path, settings: Settings
) -> None:
    def broken(request: str) -> str:
        raise dspy.lm15.ServerError("out of memory")

    with pytest.raises(EngineError, match="out of memory"):
        compiled(tmp_path / "routing", settings, scripted_lm(broken))

    assert only_run(settings)[0].status == "failed"


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, not a folder")

    with pytest.raises(StorageError) as raised:
        compiled(tmp_path / "routing", Settings(home=tmp_path / "home"))
    assert "\n" not in str(raised.value)


def test_a_full_disk_is_one_line_and_leaves_no_half_artifact(
    tmp_path: Path, settings: Settings
) -> None:
    asked: list[str] = []
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def answer(request: str) -> str:
        asked.append(request)
        if len(asked) == 24:
            # From here on no file may grow, as on a disk without space.
            resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
        return learner(request)

    try:
        with pytest.raises(StorageError) as raised:
            compiled(tmp_path / "routing", settings, scripted_lm(answer))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    (folder,) = settings.runs.iterdir()

    assert "\n" not in str(raised.value)
    assert {each.name for each in folder.iterdir()} == {
        ".lock",
        ".history.json",
        "task",
        "run.log",
        "events.jsonl",
        "examples.jsonl",
        "journal.log",
        "plan.json",
    }


def test_a_model_opened_for_work_that_fails_is_given_back(
    tmp_path: Path, settings: Settings
) -> None:
    model = str(write_model(tmp_path / "once"))
    text = TASK.replace("[metric]", 'program = "program.py"\n[metric]')
    folder = write_task(tmp_path / "routing", text)
    (folder / "program.py").write_text(
        "import dspy\nbuilt = []\ndef program():\n    built.append(1)\n"
        "    assert len(built) < 2, 'built twice'\n"
        "    return dspy.Predict('text -> team, urgent')\n"
    )
    task = load_task(folder)

    with pytest.raises(InvalidInput, match="built twice"):
        compile_task(task, CompileOptions(model=model), settings)
    (folder / "program.py").write_text((folder / "program.py").read_text() + "\n")
    with pytest.raises(InvalidInput, match="built twice"):
        score_path(folder, model=model, settings=settings)
    assert not any(each.name == "dspy-tk engine once" for each in threading.enumerate())
