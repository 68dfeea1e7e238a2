from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dspy_toolkit.cli.main import main
from dspy_toolkit.engine.blas import preload_blas

# A command that is run in this process may be the first to import MLX.
preload_blas()


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int | str | None
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def dspy_tk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command as a terminal calls it, in this process, with a home of its own."""
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path / "home"))

    def run(*words: object) -> Done:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["dspy-tk", *map(str, words)])
            with pytest.raises(SystemExit) as ended:
                main()
        shown = capsys.readouterr()
        return Done(ended.value.code, shown.out, shown.err)

    return run
