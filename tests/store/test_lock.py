from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.store.lock import in_use, working_in

HOLDER = """
import sys
from pathlib import Path
from dspy_toolkit.store.lock import working_in

with working_in(Path(sys.argv[1]), "it"):
    print("here", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_in_use_as_long_as_someone_works_in_it(tmp_path: Path) -> None:
    with working_in(tmp_path, "run a"):
        assert in_use(tmp_path)
    assert not in_use(tmp_path)


def test_only_one_works_in_a_folder(tmp_path: Path) -> None:
    with (
        working_in(tmp_path, "run a"),
        pytest.raises(InvalidInput, match="run a is being worked on by another process"),
        working_in(tmp_path, "run a"),
    ):
        pass
    with working_in(tmp_path, "run a"):
        assert in_use(tmp_path)


def test_a_folder_nobody_ever_worked_in_is_free(tmp_path: Path) -> None:
    assert not in_use(tmp_path)
    assert not in_use(tmp_path / "none")


def test_a_kill_sets_the_folder_free(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"here\n"
        assert in_use(tmp_path)

        holder.send_signal(signal.SIGKILL)
        holder.wait()

        assert not in_use(tmp_path)
