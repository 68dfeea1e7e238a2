"""The runs of a home: which there are, what became of them, and removing them.

Nothing here loads DSPy or a model, so that looking at runs is quick.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dspy_toolkit.compiler.plot import FILE as PLOT
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.store.files import storage_errors
from dspy_toolkit.store.history import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    History,
    RunRow,
)
from dspy_toolkit.store.lock import in_use, working_in

PLAN = "plan.json"
"""File in a run's folder that says what the run is a run of; those of compile runs have one."""

DIED = "died"
"""Status of a run whose process is gone without a word, as after a kill or a loss of power."""

BUDGET = "budget"
"""Status of a run that has a result, of what its budget allowed."""

UNFINISHED = (DIED, INTERRUPTED, FAILED)
"""Statuses of runs that have no result."""


@dataclass(frozen=True)
class Run:
    """A run as it is now.

    Attributes:
        row: as in the history, where a run that died still counts as running.
        folder: where its files lie; may have been removed by hand.
        status: "running", "finished", "budget", "failed", "interrupted" or "died".
    """

    row: RunRow
    folder: Path
    status: str

    @property
    def plot(self) -> Path:
        """Its plot of scores against calls; there where several candidates were tried."""
        return self.folder / PLOT

    @property
    def resumable(self) -> bool:
        """Whether it ended before its end, and `dspy-tk compile --resume` may go on with it."""
        ended = self.status in (*UNFINISHED, BUDGET)
        return ended and (self.folder / PLAN).is_file()

    @property
    def report(self) -> Mapping[str, Any]:
        """Its report, empty where it has none."""
        return self.row.report or {}

    def facts(self) -> dict[str, Any]:
        """What lists show, as JSON values; None for what the run did not come to."""
        report = self.report
        return {
            "run": self.row.id,
            "task": self.row.task,
            "status": self.status,
            "optimizer": self.row.optimizer,
            "model": self.row.model,
            "seed": self.row.seed,
            "started_at": datetime.fromtimestamp(self.row.started_at, UTC).isoformat(
                "T", "seconds"
            ),
            "baseline": _inside(report, "baseline", "score"),
            "compiled": _inside(report, "compiled", "score"),
            "verdict": _inside(report, "gate", "verdict"),
            "calls": report.get("calls"),
            "seconds": report.get("seconds"),
            "error": self.row.error,
        }


def list_runs(settings: Settings, limit: int = 50, task: str | None = None) -> list[Run]:
    """The newest runs, newest first.

    Args:
        settings: whose home.
        limit: at most so many.
        task: only runs of this task.
    """
    if not settings.database.is_file():
        return []
    with closing(History(settings.database)) as history:
        return [_run(settings, row) for row in history.latest(limit, task)]


def find_run(settings: Settings, run: str) -> Run:
    """One run by id.

    Raises:
        NotFound: there is none; names the nearest.
    """
    with _history(settings, run) as history:
        return _run(settings, history.get(run))


def delete_runs(settings: Settings, runs: Sequence[str]) -> None:
    """Remove runs with all their files. What is asked for is checked before anything goes.

    Raises:
        NotFound: one does not exist. InvalidInput: one is still running.
        StorageError: files cannot be removed; asking again goes on.
    """
    found = [find_run(settings, run) for run in dict.fromkeys(runs)]
    for run in found:
        if run.status == RUNNING:
            raise InvalidInput(f"run {run.row.id} is still running; stop it first")
    for run in found:
        _delete(settings, run)


def _delete(settings: Settings, run: Run) -> None:
    going = settings.runs / f".{run.row.id}.deleted"
    with storage_errors(run.folder):
        if run.folder.is_dir():
            with working_in(run.folder, f"run {run.row.id}"):
                run.folder.rename(going)
        if going.is_dir():
            shutil.rmtree(going)
    # The row goes last: as long as it is there, the same command finishes what was begun.
    with _history(settings, run.row.id) as history:
        history.remove(run.row.id)


@contextmanager
def _history(settings: Settings, run: str) -> Iterator[History]:
    if not settings.database.is_file():
        raise NotFound(f"run {run!r} is not in {settings.home}, which has no runs; compile one")
    with closing(History(settings.database)) as history:
        yield history


def _run(settings: Settings, row: RunRow) -> Run:
    folder = settings.runs / row.id
    status = row.status
    if status == RUNNING and not in_use(folder):
        status = DIED
    elif status == FINISHED and (row.report or {}).get("stopped") == BUDGET:
        status = BUDGET
    return Run(row, folder, status)


def _inside(report: Mapping[str, Any], part: str, key: str) -> Any:
    # Runs of training, and of older versions, have reports without such parts.
    values = report.get(part)
    return values.get(key) if isinstance(values, dict) else None
