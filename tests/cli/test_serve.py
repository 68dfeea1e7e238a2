"""What `dspy-tk serve` refuses, before it loads anything."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from dspy_toolkit.cli.main import main


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int | str | None, str]:
    """Exit code and standard error of a command that does not serve."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dspy-tk", "serve", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code, capsys.readouterr().err


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))


def test_a_name_that_is_nothing_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "nope", "--port", "0")

    assert code == 3
    assert said.startswith("error: model 'nope' does not exist")
    assert said.count("\n") == 1


def test_a_folder_without_a_model_is_told_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, said = refused(capsys, str(tmp_path), "--port", "0")

    assert code != 0
    assert "config.json" in said
    assert said.count("\n") == 1


def test_a_port_that_is_taken_is_told_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = refused(capsys, "embedded", "--port", str(taken.getsockname()[1]))

    assert code == 4
    assert "nothing can listen on" in said
    assert "loaded" not in said


def test_an_unknown_combiner_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, "--ensemble", "best=vot:a,b", "--port", "0")

    assert code == 4
    assert "did you mean 'vote'?" in said
