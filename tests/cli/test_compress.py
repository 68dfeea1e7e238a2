from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dspy_toolkit.cli.main import app
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.errors import InvalidInput
from tests.compression.making import plain_model

preload_blas()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return plain_model(tmp_path)


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_quantize_tells_machines_what_it_made_and_people_how_to_use_it(
    model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small"
    words = ("compress", "quantize", str(model), "--bits", "4", "--group", "32")

    told = json.loads(run(*words, "--output", str(out), "--json"))
    shown = run(*words)

    assert told["fresh"] is True
    assert told["recipe"]["technique"] == "rtn"
    assert (out / "model.safetensors").is_file()
    assert "bits a weight" in shown


def test_prune_and_export(model: Path, tmp_path: Path) -> None:
    cut = json.loads(
        run("compress", "prune", str(model), "--method", "magnitude", "--target", "0.1", "--json")
    )
    made = json.loads(
        run(
            "compress", "export", cut["folder"], "--to", "safetensors", "--output",
            str(tmp_path / "out"), "--json",
        )
    )  # fmt: skip

    assert cut["measures"]["removed"] >= 0.1
    assert made["same_answers"] == made["of"]


def test_a_wrong_option_is_one_line(model: Path) -> None:
    with pytest.raises(InvalidInput, match="bits must be one of 2, 3, 4, 5, 6, 8, got 7"):
        CliRunner().invoke(
            app, ["compress", "quantize", str(model), "--bits", "7"], catch_exceptions=False
        )


@pytest.mark.parametrize(
    "command", ["analyze", "quantize", "prune", "factorize", "distill", "run", "export"]
)
def test_every_command_has_an_example(command: str) -> None:
    assert "Example: dspy-tk compress" in run("compress", command, "--help")


def test_bench_has_an_example_and_reads_its_rows() -> None:
    assert "Example: dspy-tk bench" in run("bench", "--help")
    with pytest.raises(InvalidInput, match="must be whole numbers above 0"):
        CliRunner().invoke(app, ["bench", "embedded", "--rows", "1,x"], catch_exceptions=False)
