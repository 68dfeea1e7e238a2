"""What is left when a database is damaged, a disk is full, or a process is killed while writing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.errors import IntegrityError, StorageError
from dspy_toolkit.events import Event, HistoryRebuilt, subscribed
from dspy_toolkit.store.files import new_folder, write_json
from dspy_toolkit.store.history import FAILED, FINISHED, INTERRUPTED, RUNNING, History, RunRow

ROW = RunRow("20260101-120000-triage-0a1b", "triage", "mipro", "mlx/nano#1", 7, 1767268800.0)
REPORT = {"task": "triage", "optimizer": "mipro", "model": "mlx/nano#1", "seed": 7, "score": 0.8}


def home_with_runs(home: Path) -> dict[str, RunRow]:
    """A home with a finished, a failed, an interrupted and a running run."""
    history = History(home / "history.sqlite")
    for number, status in enumerate((FINISHED, FAILED, INTERRUPTED, RUNNING)):
        row = replace(ROW, id=f"20260101-12000{number}-triage-0a1b", started_at=number)
        with new_folder(home / "runs" / row.id) as folder:
            (folder / "task").mkdir()
        history.add(row)
        if status == FINISHED:
            write_json(home / "runs" / row.id / "report.json", REPORT)
            history.finish(row.id, REPORT)
        elif status == FAILED:
            history.fail(row.id, "metric raised")
        elif status == INTERRUPTED:
            history.interrupt(row.id)
    rows = {row.id: row for row in history.latest()}
    history.close()
    return rows


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no database, " * 100)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def scribble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:8192] = os.urandom(4096)
    path.write_bytes(content)


def empty_head(path: Path) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


@pytest.mark.parametrize("harm", [overwrite, cut, scribble, empty_head])
def test_a_damaged_history_is_set_aside_and_made_anew_from_the_runs_folders(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    before = home_with_runs(tmp_path)
    path = tmp_path / "history.sqlite"
    harm(path)
    damaged = path.read_bytes()
    heard: list[Event] = []
    with subscribed(heard.append):
        history = History(path)
    after = {row.id: row for row in history.latest()}
    history.close()
    (told,) = [event for event in heard if isinstance(event, HistoryRebuilt)]

    assert after == before
    assert told.runs == 4
    assert Path(told.kept).read_bytes() == damaged


def test_folders_of_older_runs_are_taken_in_as_far_as_they_tell(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_json(runs / ROW.id / "report.json", REPORT)
    (runs / "20260101-120001-order_triage-77fe" / "task").mkdir(parents=True)
    (runs / "by hand").mkdir()
    (runs / ".20260101-120002-x-0a0a.deleted").mkdir()
    overwrite(tmp_path / "history.sqlite")
    history = History(tmp_path / "history.sqlite")
    rows = {row.id: row for row in history.latest()}
    history.close()

    assert rows.pop(ROW.id) == replace(ROW, status=FINISHED, report=REPORT)
    assert {(row.id, row.task, row.status) for row in rows.values()} == {
        ("20260101-120001-order_triage-77fe", "order_triage", INTERRUPTED),
        ("by hand", "unknown", INTERRUPTED),
    }


def test_processes_that_find_the_damage_at_once_mend_it_once(tmp_path: Path) -> None:
    before = home_with_runs(tmp_path)
    overwrite(tmp_path / "history.sqlite")

    def look(_: int) -> set[str]:
        history = History(tmp_path / "history.sqlite")
        found = {row.id for row in history.latest()}
        history.close()
        return found

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(look, range(6)))

    assert found == [before.keys()] * 6
    assert len(list(tmp_path.glob("history.sqlite.damaged-*"))) == 1


@settings(max_examples=10)
@given(st.binary(min_size=1, max_size=64), st.integers(0, 1 << 16))
def test_whatever_bytes_are_changed_the_history_opens_or_is_rebuilt(
    change: bytes, place: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        before = home_with_runs(home)
        path = home / "history.sqlite"
        content = bytearray(path.read_bytes())
        start = place % len(content)
        content[start : start + len(change)] = change
        path.write_bytes(content[: len(path.read_bytes())])
        history = History(path)
        try:
            found = {row.id for row in history.latest()}
        except (IntegrityError, ValueError):
            # A changed value that no check of SQLite's can know to be wrong.
            found = set(before)
        history.close()

    assert len(found) <= 4


_KILLED_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from dspy_toolkit.store.files import new_folder, write_json, write_text
from dspy_toolkit.store.manifest import write_manifest

def work(place):
    write_json(place / "old.json", {"version": 2})
    with new_folder(place / "artifact") as folder:
        write_text(folder / "program.json", "{}")
        write_manifest(folder, {"kind": "artifact"})
    write_json(place / "deep" / "er" / "new.json", {"version": 1})

home = Path(sys.argv[1])
for step in range(1000):
    place = home / str(step)
    write_json(place / "old.json", {"version": 1})
    child = os.fork()
    if child == 0:
        seen = 0
        def count(name, arguments):
            global seen
            seen += name in ("open", "os.rename", "os.mkdir", "os.chmod", "os.remove")
            if seen > step:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        work(place)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(step)
        break
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks inside a process that has threads")
def test_a_process_killed_at_any_step_of_its_writing_leaves_the_old_or_the_new(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_AT_EVERY_STEP, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    steps = int(done.stdout)

    assert steps >= 15

    for step in range(steps + 1):
        place = tmp_path / str(step)
        visible = {file.name for file in place.rglob("*") if not _hidden(file, place)}
        assert json.loads((place / "old.json").read_text())["version"] in (1, 2)
        if "artifact" in visible:
            assert {"program.json", "manifest.json"} <= visible
        if "new.json" in visible:
            assert json.loads((place / "deep/er/new.json").read_text()) == {"version": 1}
    assert {"artifact", "new.json"} <= visible


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


_WRITING = """
import sys
from dataclasses import replace
from pathlib import Path
from dspy_toolkit.store.files import new_folder, write_json
from dspy_toolkit.store.history import History
from tests.store.test_recovery import REPORT, ROW

home = Path(sys.argv[1])
history = History(home / "history.sqlite")
number = 0
while True:
    row = replace(ROW, id=f"20260101-120000-triage-{number:04x}")
    with new_folder(home / "runs" / row.id) as folder:
        (folder / "task").mkdir()
    history.add(row)
    print(row.id, flush=True)
    write_json(home / "runs" / row.id / "report.json", REPORT)
    history.finish(row.id, REPORT)
    print(row.id, "finished", flush=True)
    number += 1
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_process_killed_while_it_writes_the_history_loses_nothing_it_had_said(
    tmp_path: Path, seed: int
) -> None:
    command = [sys.executable, "-c", _WRITING, str(tmp_path)]
    told: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None

        for _ in range(random.Random(seed).randrange(1, 30)):
            told.append(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.readlines()
    history = History(tmp_path / "history.sqlite")
    rows = {row.id: row for row in history.latest(1000)}
    history.close()
    begun = {line.split()[0] for line in told}
    finished = {line.split()[0] for line in told if "finished" in line}

    assert begun <= rows.keys()
    assert all(rows[run].report == REPORT for run in finished)
    assert all(row.status in (RUNNING, FINISHED) for row in rows.values())
    assert list(tmp_path.glob("*.damaged-*")) == []


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.store.test_recovery import fill

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
home = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
fill(home)
"""


def fill(home: Path) -> None:
    """Write until the system refuses, and say what was refused."""
    large = {**REPORT, "text": "x" * 20_000}
    refusals = []
    history = History(home / "history.sqlite")
    for number in range(40):
        run = f"20260101-120000-triage-{number:04x}"
        try:
            with new_folder(home / "runs" / run) as folder:
                write_json(folder / "report.json", {**large, "more": "y" * 3000 * number})
            history.add(replace(ROW, id=run))
            history.finish(run, {**large})
        except StorageError as error:
            refusals.append(str(error))
    history.close()
    sys.stdout.write(json.dumps(refusals))


@pytest.mark.parametrize("most_bytes", [60_000, 200_000])
def test_a_disk_that_takes_no_more_is_refused_in_one_line_and_leaves_nothing_half_written(
    tmp_path: Path, most_bytes: int
) -> None:
    History(tmp_path / "history.sqlite").close()
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path), str(most_bytes)],
        check=True,
        capture_output=True,
        text=True,
    )
    refusals = json.loads(done.stdout)
    history = History(tmp_path / "history.sqlite")
    rows = history.latest(1000)
    history.close()

    assert refusals
    assert all("\n" not in refusal for refusal in refusals)
    for folder in (tmp_path / "runs").iterdir():
        assert not folder.name.endswith(".tmp")
        assert json.loads((folder / "report.json").read_text())["task"] == "triage"
    assert all(row.report is None or row.report["text"] == "x" * 20_000 for row in rows)
