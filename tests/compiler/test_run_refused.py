"""What is wrong is told before anything is asked, loaded or written."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_toolkit.compiler.course import Course
from dspy_toolkit.compiler.run import CompileOptions, compile_program, compile_task
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, NotFound, ToolkitError
from dspy_toolkit.programs.limits import Budget
from dspy_toolkit.programs.task import load_task
from tests.compiler.running import check_refused, compiled, examples
from tests.engine.tiny import write_model
from tests.programs.tasks import TASK, learner, scripted_lm, write_task


@pytest.mark.parametrize("written", ["{home}/out", "~/out"])
def test_an_output_that_exists_is_refused_before_anything_runs(
    tmp_path: Path, settings: Settings, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "out").mkdir()
    lm = scripted_lm(learner)
    output = Path(written.format(home=tmp_path))

    with pytest.raises(InvalidInput, match="already exists"):
        compiled(tmp_path / "routing", settings, lm, output=output)
    assert lm.engine.requests == []
    assert not settings.runs.exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"teacher": "no/such/teacher"}, "no/such/teacher"),
        ({"prompt_model": "nowhere"}, "nowhere"),
        ({"course": Course(resume="20260101-120000-routing-0a1b")}, "20260101-120000-routing"),
        ({"optimizer": "labeled_fewshot"}, "did you mean 'labeled_few_shot'"),
        ({"options": {"kk": 1}}, "did you mean 'k'"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"course": Course(budget=Budget(calls=23))}, "23 calls is too small .* at least 24"),
        (
            {"teacher": "remote/a@http://localhost/v1", "course": Course(budget=Budget(money=1))},
            "needs the price of remote/a@http://localhost/v1",
        ),
    ],
)
def test_what_cannot_be_is_told_before_the_model_is_loaded(
    tmp_path: Path, settings: Settings, wrong: dict[str, Any], message: str
) -> None:
    task = load_task(write_task(tmp_path / "routing"))
    asked = CompileOptions(model=str(write_model(tmp_path / "tiny")), **wrong)

    check_refused(lambda: compile_task(task, asked, settings), message)
    assert not settings.runs.exists()


def test_unknown_optimizers_and_options_leave_no_run(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(NotFound, match="did you mean"):
        compiled(tmp_path / "a", settings, optimizer="labeled_fewshot")
    with pytest.raises(InvalidInput, match="unknown key 'kk'"):
        compiled(tmp_path / "b", settings, options={"kk": 2})
    assert not settings.runs.exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("k = 4", 'k = "nine"', r"task\.toml:15 \[optimizer\]: .* got 'nine'"),
        ("k = 4", "kk = 4", r"task\.toml:15 \[optimizer\]: .*did you mean 'k'"),
        ('"labeled_few_shot"', '"labeled"', r"task\.toml:14 \[optimizer\]: .*did you mean"),
    ],
)
def test_a_wrong_optimizer_of_the_task_is_named_by_its_line(
    tmp_path: Path, settings: Settings, old: str, new: str, message: str
) -> None:
    task = load_task(write_task(tmp_path / "routing", TASK.replace(old, new)))

    with pytest.raises(InvalidInput, match=message):
        compile_task(task, CompileOptions(), settings)


def test_an_option_of_the_command_stands_in_for_a_wrong_one_of_the_task(
    tmp_path: Path, settings: Settings
) -> None:
    task = load_task(write_task(tmp_path / "routing", TASK.replace("k = 4", 'k = "nine"')))

    report = compile_task(
        task, CompileOptions(lm=scripted_lm(learner), options={"k": 2}), settings
    ).report

    assert report["optimizer_options"] == {"k": 2}


def test_a_task_for_larger_models_says_so(tmp_path: Path, settings: Settings) -> None:
    text = TASK.replace("[metric]", 'needs_larger_model = "it must reason"\n[metric]')
    task = load_task(write_task(tmp_path / "routing", text))

    with pytest.raises(
        InvalidInput, match=r"larger model than the embedded one: it must reason; .*--model"
    ):
        compile_task(task, CompileOptions(), settings)
    assert not settings.runs.exists()


def dated() -> list[dspy.Example]:
    return [dspy.Example(text="x", team=date(2026, 1, 2), urgent=True).with_inputs("text")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": dated()}, "train example 0: field 'team' holds a date that JSON cannot hold"),
        ({"options": CompileOptions(model="embedded")}, "leave out the options' model, adapter"),
        ({"options": CompileOptions(name="a/../../../esc/x")}, "run name 'a/.*must be small"),
        ({"options": CompileOptions(format="xlm")}, "did you mean 'xml'"),
        ({"test": []}, "the test split is empty"),
        ({"train": [dspy.Example(text="x", team="y")]}, "train example 0 says not what its inputs"),
        ({"test": examples("train", 2)}, "test example 0 has the same inputs as train example 0"),
        ({"metric": "exct"}, "did you mean 'exact'"),
        ({"lm": dspy.LM("openai/gpt")}, "lm is a LM, whose calls cannot be counted"),
    ],
)
def test_bad_examples_in_python_are_named(
    settings: Settings, change: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {
        "train": examples("train", 4),
        "validation": examples("validation", 4),
        "test": examples("test", 4),
        "metric": "exact",
        "lm": scripted_lm(learner),
        "settings": settings,
    }

    with pytest.raises(ToolkitError, match=message):
        compile_program(dspy.Predict("text -> team, urgent"), **{**given, **change})
