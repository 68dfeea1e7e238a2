"""What a run leaves behind: its folder, its logs, its row in the history, its events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.compiler.logs import RunLogs
from dspy_toolkit.compiler.report import write_report
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.events import (
    PhaseAdvanced,
    PhaseStarted,
    RunFinished,
    RunStarted,
    emit,
    subscribed,
)
from dspy_toolkit.store.files import new_folder
from dspy_toolkit.store.history import History, RunRow
from dspy_toolkit.store.lock import working_in


@dataclass(frozen=True)
class RunRecord:
    """A run that is going on.

    Attributes:
        run: its id, also the name of its folder.
        folder: holds the task as it was, logs, report and artifact.
        started_at: seconds since the epoch.
        say: writes a line into `run.log`.
        history: the runs of the home.
    """

    run: str
    folder: Path
    started_at: float
    say: Callable[[str], None]
    history: History

    def phase(self, name: str, total: int | None) -> Callable[[int, float | None], None]:
        """Announce a phase; the function returned reports steps done and the score so far."""
        emit(PhaseStarted(self.run, name, total))
        return lambda done, score: emit(PhaseAdvanced(self.run, name, done, score))

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.time() - self.started_at

    def finish(self, report: dict[str, Any]) -> None:
        """Write the report of a run that has a result; the last thing that it does.

        Raises:
            IntegrityError: the report does not fit its schema. StorageError: it cannot be written.
        """
        write_report(self.folder, report)
        self.history.finish(self.run, report)


@contextmanager
def recorded(
    settings: Settings,
    *,
    task: str,
    optimizer: str,
    model: str,
    seed: int,
    fill: Callable[[Path], None],
) -> Iterator[RunRecord]:
    """Keep the record of a run, however it ends.

    Args:
        settings: where runs and the history lie.
        task, optimizer, model, seed: for the history.
        fill: puts the task as it is now into the given folder.

    Yields:
        The record, whose `finish` takes the report. An exception makes the run a failed one,
        Ctrl-C an interrupted one.

    Raises:
        StorageError: the home cannot be written.
    """
    started_at = time.time()
    run = _new_id(task, started_at)
    folder = settings.runs / run
    history = History(settings.database)
    with new_folder(folder) as place:
        fill(place / "task")
    logs = RunLogs(folder, run)
    with closing(history), working_in(folder, f"run {run}"), closing(logs), subscribed(logs):
        history.add(RunRow(run, task, optimizer, model, seed, started_at))
        emit(RunStarted(run, task, optimizer))
        try:
            yield RunRecord(run, folder, started_at, logs.say, history)
        except BaseException as error:
            _note_failure(history, run, error)
            emit(RunFinished(run, time.time() - started_at, _reason(error)))
            raise
        emit(RunFinished(run, time.time() - started_at))
    logs.check()


def _note_failure(history: History, run: str, error: BaseException) -> None:
    try:
        if isinstance(error, KeyboardInterrupt):
            history.interrupt(run)
        else:
            history.fail(run, _reason(error))
    except ToolkitError:
        # The first error says more than a history that cannot be written because of it.
        return


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = str(error) if isinstance(error, ToolkitError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _new_id(task: str, at: float) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(at))
    return f"{stamp}-{task}-{secrets.token_hex(2)}"
