from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import StorageError
from dspy_toolkit.store.append_log import SYNC_EVERY_S, AppendLog, Recovered, read_log

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def write(path: Path, records: list[Any]) -> None:
    with closing(AppendLog(path)) as log:
        for record in records:
            log.append(record)


def reopened(path: Path) -> Recovered:
    with closing(AppendLog(path)) as log:
        return log.recovered


@given(st.lists(JSON, max_size=8))
def test_what_was_appended_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.log"
    write(path, records)

    assert read_log(path) == Recovered(tuple(records))


@given(st.lists(JSON, min_size=1, max_size=6), st.data())
def test_a_log_cut_anywhere_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.log"
    write(path, records)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")

    found = reopened(path)

    assert found.records == tuple(records[:kept])
    assert (found.damaged, found.torn) == (0, cut > 0 and whole[cut - 1 : cut] != b"\n")
    write(path, ["more"])
    assert read_log(path).records == (*records[:kept], "more")


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_changed_byte_costs_the_lines_it_touches_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.log"
    records = [{"n": n, "text": "x" * n} for n in range(12)]
    write(path, records)
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= change
    path.write_bytes(bytes(content))

    found = reopened(path)

    # A broken line end makes one line of two, a new one two of one.
    assert len(found.records) >= 10
    assert all(record in records for record in found.records)
    assert found.damaged or found.torn
    assert reopened(path) == Recovered(found.records)


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    with closing(AppendLog(tmp_path / "a.log")) as log, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: log.append([n, "y" * 500]), range(200)))

    assert sorted(n for n, _ in read_log(tmp_path / "a.log").records) == list(range(200))


@given(st.integers(1, 8), st.lists(st.text(max_size=200), min_size=1, max_size=12))
def test_each_thread_finds_its_records_in_the_file_at_once_and_in_its_order(
    tmp_path_factory: pytest.TempPathFactory, threads: int, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.log"

    def work(thread: int) -> bool:
        for n, text in enumerate(texts):
            log.append([thread, n, text])
            if read_log(path).records.count([thread, n, text]) != 1:
                return False
        return True

    with closing(AppendLog(path)) as log, ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(work, range(threads)))
    found = read_log(path)

    assert (found.damaged, found.torn) == (0, False)
    for thread in range(threads):
        own = [each for each in found.records if each[0] == thread]
        assert own == [[thread, n, text] for n, text in enumerate(texts)]


def test_nothing_is_appended_to_a_closed_log(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = AppendLog(path)
    log.close()

    def failed(n: int) -> bool:
        with pytest.raises(StorageError, match="is closed"):
            log.append(n)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(failed, range(64)))
    assert read_log(path) == Recovered()


KILLED = """
import os, sys, threading
from pathlib import Path
from dspy_toolkit.store.append_log import AppendLog

log = AppendLog(Path(sys.argv[1]))

def work(thread):
    for n in range(10_000):
        log.append([thread, n])
        os.write(1, f"{thread} {n}\\n".encode())

for thread in range(8):
    threading.Thread(target=work, args=(thread,)).start()
"""


@pytest.mark.parametrize("after", [1, 500])
def test_a_kill_loses_nothing_that_was_appended(tmp_path: Path, after: int) -> None:
    path = tmp_path / "a.log"
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().splitlines(keepends=True)
    appended = {tuple(map(int, line.split())) for line in told if line.endswith(b"\n")}
    found = read_log(path)
    kept = [tuple(record) for record in found.records]

    assert len(appended) >= after
    assert appended <= set(kept)
    assert len(kept) == len(set(kept))
    assert found.damaged == 0


def test_it_is_flushed_to_disk_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, flushed = [0.0], list[int]()
    monkeypatch.setattr(os, "fsync", flushed.append)
    with closing(AppendLog(tmp_path / "a.log", lambda: now[0])) as log:
        for part in (0.2, 0.9, 1.1, 1.5, 2.2):
            now[0] = part * SYNC_EVERY_S
            log.append(part)

        assert len(flushed) == 2
    assert len(flushed) == 3


def test_a_full_disk_is_one_line_and_costs_the_next_one_nothing(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = AppendLog(tmp_path / "a.log")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        log.append("x" * 50)
        with pytest.raises(StorageError, match=r"a\.log"):
            log.append("y" * 50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    log.append("z" * 50)
    log.close()

    assert read_log(tmp_path / "a.log") == Recovered(("x" * 50, "z" * 50))
