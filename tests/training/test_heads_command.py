from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dspy_toolkit.cli.heads import app
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, NotFound

EXAMPLE = Path(__file__).parents[2] / "examples" / "ticket_triage"
TICKET = '{"ticket": "My parcel never came."}'


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Any:
    monkeypatch.setenv("DSPY_TK_HOME", str(settings.home))
    outer = typer.Typer()
    outer.add_typer(app, name="heads")
    return lambda *arguments: CliRunner().invoke(outer, ["heads", *map(str, arguments)])


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return shortened(tmp_path, train=32, validation=12, test=20)


def shortened(tmp_path: Path, **rows: int) -> Path:
    """The example with fewer rows, compiled without a search."""
    shutil.copytree(EXAMPLE, tmp_path / "task")
    for name, count in rows.items():
        file = tmp_path / "task" / "data" / f"{name}.jsonl"
        file.write_text("\n".join(file.read_text().splitlines()[:count]) + "\n")
    file = tmp_path / "task" / "task.toml"
    head, _, _ = file.read_text().partition("[optimizer]")
    file.write_text(head + '[optimizer]\nname = "labeled_few_shot"\nk = 4\n')
    return tmp_path / "task"


def test_heads_are_trained_scored_and_asked_from_the_command_line(
    command: Any, task: Path, trained: dict[str, Any], tmp_path: Path
) -> None:
    place = tmp_path / "heads"
    given = ("--base", trained["result"], "--output", place, "--steps", 20, "--json")

    made = command("train", task, *given)
    scored = command("evaluate", place, task, "--json")
    asked = command("run", place, "--input", TICKET)

    facts = json.loads(made.stdout)
    again = json.loads(scored.stdout)
    assert made.stderr == ""
    assert facts["learnt_from"] == facts["asked"] == 44
    assert again["score"] == facts["score"] > 0
    assert asked.stdout.splitlines()[0].startswith("team: ")


def test_heads_learn_the_good_answers_of_a_compiled_program(
    command: Any, settings: Settings, tmp_path: Path
) -> None:
    from dspy_toolkit.compiler.run import CompileOptions, compile_task
    from dspy_toolkit.programs.task import load_task

    task = shortened(tmp_path, train=8, validation=2, test=2)
    run = compile_task(load_task(task), CompileOptions(keep_anyway=True), settings).folder

    trained = command(
        "train", task, "--teacher", run, "--output", tmp_path / "heads", "--steps", 2, "--json"
    )

    facts = json.loads(trained.stdout)
    assert 0 < facts["learnt_from"] < facts["asked"]


def test_what_cannot_be_answered_says_why(command: Any, task: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()

    missing = command("run", tmp_path / "none", "--input", TICKET)
    there = command("train", task, "--output", tmp_path / "there")

    assert isinstance(missing.exception, NotFound)
    assert isinstance(there.exception, InvalidInput)
    assert "already exists" in str(there.exception)
