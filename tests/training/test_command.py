from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dspy_toolkit.cli.train import train_command
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import UnknownKey
from dspy_toolkit.events import subscribed
from tests.training import tiny
from tests.training.conftest import Values, merged
from tests.training.test_resume import interrupt_at, the_run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Any:
    monkeypatch.setenv("DSPY_TK_HOME", str(settings.home))
    app = typer.Typer()
    app.command()(train_command)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments))

    return run


@pytest.fixture
def recipe_file(values: Values, tmp_path: Path) -> Path:
    return tiny.write_toml(tmp_path / "recipe.toml", values)


def test_training_ends_in_a_table_that_says_where_the_model_lies(
    command: Any, recipe_file: Path, settings: Settings
) -> None:
    ran = command(str(recipe_file))

    place = settings.runs / the_run(settings) / "model"
    assert ran.exit_code == 0
    assert str(place) in "".join(ran.stdout.split())
    assert "8/8" in ran.stderr
    assert (place / "model.safetensors").is_file()


def test_json_is_one_object_and_nothing_else(command: Any, recipe_file: Path) -> None:
    ran = command(str(recipe_file), "--json")

    assert json.loads(ran.stdout)["steps"] == 8
    assert ran.stderr == ""


def test_an_interrupt_says_how_to_go_on_and_going_on_works(
    command: Any, recipe_file: Path, settings: Settings
) -> None:
    with subscribed(interrupt_at(4)):
        stopped = command(str(recipe_file))
    run = the_run(settings)

    assert stopped.exit_code == 130
    assert f"go on with: dspy-tk train --resume {run}" in stopped.stderr
    resumed = command("--resume", run, "--json")
    assert json.loads(resumed.stdout)["resumed_at"] == [4]


def test_a_recipe_and_a_run_exclude_each_other(command: Any, recipe_file: Path) -> None:
    assert command().exit_code == 2
    assert command(str(recipe_file), "--resume", "x").exit_code == 2


def test_a_wrong_recipe_is_an_error_of_ours(command: Any, values: Values, tmp_path: Path) -> None:
    wrong = tiny.write_toml(tmp_path / "wrong.toml", merged(values, {"trainnig": {"steps": 1}}))

    ran = command(str(wrong))

    assert isinstance(ran.exception, UnknownKey)
