"""The promise of the command: one line, a documented exit code, and no traceback."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command

CODE = "import sys; sys.argv[0] = 'dspy-tk'; from dspy_toolkit.cli.main import main; main()"
DAMAGED_TASK = "name = [\n"


def process(home: Path, *arguments: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        env=os.environ | {"DSPY_TK_HOME": str(home)},
        text=True,
        check=False,
        **streams,
    )


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    task = tmp_path / "broken"
    task.mkdir()
    (task / "task.toml").write_text(DAMAGED_TASK)
    return task


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["compile", "nowhere"], 3, "nowhere does not exist"),
        (["compile", "{broken}"], 4, "task.toml"),
        (["signatures", "show", "clasify"], 3, "did you mean 'classify'"),
        (["optimizers", "show", "rase"], 3, "did you mean 'race'"),
        (["run", "nowhere", "--input", "{{}}"], 3, "nowhere does not exist"),
        (["models", "show", "./nowhere"], 3, "nowhere"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_its_exit_code(
    dspy_tk: Command, broken: Path, arguments: list[str], code: int, says: str
) -> None:
    done = dspy_tk(*(argument.format(broken=broken) for argument in arguments))

    assert done.code == code
    assert done.out == ""
    assert says in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_a_process_of_its_own_says_and_ends_the_same(tmp_path: Path) -> None:
    done = process(tmp_path, "signatures", "show", "clasify", capture_output=True)

    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(r"error: .* did you mean 'classify'.*\n", done.stderr)


def test_debug_shows_the_traceback_too_wherever_it_stands(dspy_tk: Command) -> None:
    done = dspy_tk("signatures", "show", "clasify", "--debug")

    assert done.code == 3
    assert "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1].startswith("error: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = process(tmp_path, "signatures", "list", stdout=full, stderr=subprocess.PIPE)

    assert done.returncode == 7
    assert done.stderr.startswith("error: No space left on device")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_enough_gets_no_complaint(tmp_path: Path) -> None:
    command = f"{sys.executable} -c {shlex.quote(CODE)} signatures docs | head -1"

    done = subprocess.run(
        command,
        shell=True,
        env=os.environ | {"DSPY_TK_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("# Signatures\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("compile --optimzer x", "dspy-tk compile: no such option: --optimzer"),
        ("compil mine", "dspy-tk: no such command 'compil'. Did you mean 'compile'?"),
        ("runs show", "dspy-tk runs show: missing argument 'RUN'; see `dspy-tk runs show --help`"),
        ("runs list --limit x", "dspy-tk runs list: invalid value for '--limit': "),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    dspy_tk: Command, arguments: str, says: str
) -> None:
    done = dspy_tk(*arguments.split())

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {says}")
    assert done.err.count("\n") == 1


def test_a_group_without_a_command_shows_its_help(dspy_tk: Command) -> None:
    done = dspy_tk("runs")

    assert (done.code, done.err) == (2, "")
    assert "Usage: dspy-tk runs" in done.out


def test_the_version_is_printed(dspy_tk: Command) -> None:
    assert dspy_tk("--version").out.strip() == "0.1.0"


def test_ctrl_c_before_a_command_begins_is_one_line(tmp_path: Path) -> None:
    early = (
        "import os, signal, typer.main\n"
        "typer.main.get_command = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", early + CODE, "models"], capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")
