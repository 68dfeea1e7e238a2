from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dspy_toolkit.compiler.job import CompileResult
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.compiler.runs import find_run
from dspy_toolkit.compiler.verify import verify_run
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, NotFound
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.task import load_task
from tests.programs.tasks import chat, learner, right, rows, scripted_lm, write_lines, write_task


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", threads=2)


@pytest.fixture
def result(tmp_path: Path, settings: Settings) -> CompileResult:
    task = load_task(write_task(tmp_path / "task"))
    return compile_task(task, CompileOptions(lm=scripted_lm(learner)), settings)


def run_of(result: CompileResult, settings: Settings) -> str:
    return str(find_run(settings, result.report["run"]).row.id)


def test_an_unchanged_run_agrees_and_its_examples_are_asked_again(
    result: CompileResult, settings: Settings
) -> None:
    lm = scripted_lm(learner)
    found = verify_run(find_run(settings, run_of(result, settings)), lm=lm, settings=settings)

    assert found.agrees
    assert found.changed == ()
    assert found.found == found.reported == result.report["compiled"]["score"]
    assert found.environment == {}
    assert len(lm.engine.requests) == 12


def test_examples_that_score_otherwise_are_named(result: CompileResult, settings: Settings) -> None:
    def worse(request: str) -> str:
        return chat(team="comet", urgent=False) if "test message 4" in request else right(request)

    found = verify_run(
        find_run(settings, run_of(result, settings)), lm=scripted_lm(worse), settings=settings
    )

    assert not found.agrees
    assert found.changed == ("data/test.jsonl:5",)
    assert found.found == pytest.approx(found.reported - 0.5 / 12, abs=1e-5)


def test_another_environment_is_told(result: CompileResult, settings: Settings) -> None:
    file = result.folder / "report.json"
    report = json.loads(file.read_text())
    report["versions"] |= {"mlx": "0.0.1", "gone": "1"}
    file.write_text(json.dumps(report))
    found = verify_run(
        find_run(settings, run_of(result, settings)), lm=scripted_lm(learner), settings=settings
    )

    assert found.agrees
    assert set(found.environment) == {"mlx", "gone"}
    assert found.environment["gone"] == ("1", None)


def test_other_examples_are_refused(result: CompileResult, settings: Settings) -> None:
    write_lines(result.folder / "task" / "data" / "test.jsonl", rows("test", 11))

    with pytest.raises(IntegrityError, match="are not those of the run"):
        verify_run(find_run(settings, run_of(result, settings)), settings=settings)


def test_a_damaged_artifact_is_refused(result: CompileResult, settings: Settings) -> None:
    (result.folder / "artifact" / "program.json").write_text("{}")

    with pytest.raises(IntegrityError):
        verify_run(find_run(settings, run_of(result, settings)), settings=settings)


def test_another_model_is_refused(result: CompileResult, settings: Settings) -> None:
    other = LocalLM("mlx/other#scripted", engine=scripted_lm(learner).engine, cache=False)

    with pytest.raises(IntegrityError, match="was made for mlx/scripted#scripted"):
        verify_run(find_run(settings, run_of(result, settings)), lm=other, settings=settings)


def test_a_run_without_an_artifact_says_so(result: CompileResult, settings: Settings) -> None:
    shutil.rmtree(result.folder / "artifact")

    with pytest.raises(NotFound, match="has no artifact"):
        verify_run(find_run(settings, run_of(result, settings)), settings=settings)
