from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dspy_toolkit.errors import NotFound
from dspy_toolkit.store.history import FAILED, FINISHED, INTERRUPTED, RUNNING, History, RunRow

ROW = RunRow("a", "triage", "labeled_few_shot", "mlx/nano#1", 0, 1000.0)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    opened = History(tmp_path / "ho?me=1#%20" / "history.sqlite")
    yield opened
    opened.close()


def test_the_database_lies_where_it_was_asked_for(tmp_path: Path, history: History) -> None:
    assert (tmp_path / "ho?me=1#%20" / "history.sqlite").is_file()


def test_a_run_is_there_from_its_start_and_keeps_its_report(history: History) -> None:
    history.add(ROW)

    assert history.get("a") == ROW
    assert history.get("a").status == RUNNING

    history.finish("a", {"compiled": {"score": 0.8}})

    assert history.get("a") == replace(ROW, status=FINISHED, report={"compiled": {"score": 0.8}})


def test_runs_that_ended_badly_say_so(history: History) -> None:
    history.add(ROW)
    history.add(replace(ROW, id="b", started_at=2000.0))

    history.fail("a", "metric raised")
    history.interrupt("b")

    assert [(run.id, run.status, run.error) for run in history.latest()] == [
        ("b", INTERRUPTED, None),
        ("a", FAILED, "metric raised"),
    ]


def test_an_unknown_run_is_not_found(history: History) -> None:
    with pytest.raises(NotFound, match="'zzz' is not in"):
        history.get("zzz")
    with pytest.raises(NotFound, match="'zzz' is not in"):
        history.finish("zzz", {})


def test_many_writers_lose_nothing_even_when_they_all_come_first(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"

    def write(number: int) -> None:
        own = History(path)
        own.add(replace(ROW, id=str(number)))
        own.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    history = History(path)

    assert {run.id for run in history.latest()} == {str(number) for number in range(40)}

    history.close()
