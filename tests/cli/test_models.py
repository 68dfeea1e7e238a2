from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from dspy_toolkit.cli.models import app
from dspy_toolkit.errors import EngineError, NotFound
from tests.engine.tiny import write_model

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny")


def test_the_list_names_models_worth_getting() -> None:
    listed = json.loads(run(app, ["list", "--json"]).stdout)["models"]
    here = {entry["reference"]: entry["present"] for entry in listed}

    assert here["mlx-community/Qwen3-4B-Instruct-2507-4bit"] is False


def test_people_get_a_table_and_a_hint() -> None:
    result = run(app, ["list"])

    assert "Qwen3-0.6B" in result.stdout
    assert "dspy-tk models pull" in result.stderr


def test_a_model_is_shown_to_machines(model: Path) -> None:
    facts = json.loads(run(app, ["show", str(model), "--json"]).stdout)

    assert facts["parameters"] == 99_648
    assert facts["model_string"].startswith("mlx/tiny#")
    assert facts["fits"] is True


def test_a_model_is_shown_to_people(model: Path) -> None:
    shown = run(app, ["show", str(model), "--device", "cpu"]).stdout

    assert "99,648" in shown
    assert "cpu, float32" in shown
    assert "512 tokens" in shown


def test_a_model_that_is_not_here_is_not_found() -> None:
    with pytest.raises(NotFound, match="not on this machine"):
        run(app, ["show", "nobody/nothing"], catch_exceptions=False)


def test_a_download_without_a_network_fails_with_one_line() -> None:
    with pytest.raises(EngineError, match="HF_HUB_OFFLINE is set; unset it"):
        run(app, ["pull", "nobody/nothing"], catch_exceptions=False)


@pytest.mark.parametrize("command", ["list", "show", "pull"])
def test_help_ends_with_an_example(command: str) -> None:
    assert f"Example: dspy-tk models {command}" in run(app, [command, "--help"]).stdout
