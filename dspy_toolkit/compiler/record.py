"""What a run leaves behind: its folder, its logs, its row in the history, its events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.compiler.course import Start, write_plan
from dspy_toolkit.compiler.logs import RunLogs
from dspy_toolkit.compiler.report import write_report
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.events import (
    JournalOpened,
    PhaseAdvanced,
    PhaseStarted,
    RunFinished,
    RunStarted,
    emit,
    subscribed,
)
from dspy_toolkit.programs.journal import FILE as JOURNAL
from dspy_toolkit.programs.journal import CallJournal, take_calls
from dspy_toolkit.store.files import new_folder
from dspy_toolkit.store.history import FAILED, History, RunRow
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
    start: Start,
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
        start: whether it is a new run, or one that goes on.
        task, optimizer, model, seed: for the history.
        fill: puts the task as it is now into the given folder.

    Yields:
        The record, whose `finish` takes the report. An exception makes the run a failed one,
        Ctrl-C an interrupted one.

    Raises:
        InvalidInput: another process works on the run that is to go on.
        StorageError: the home cannot be written.
    """
    began_at = time.time()
    resumed = start.resumed
    run = _new_id(task, began_at) if resumed is None else resumed.row.id
    folder = settings.runs / run
    if resumed is None:
        with new_folder(folder) as place:
            fill(place / "task")
            write_plan(place, start.plan)
            if start.forked is not None:
                take_calls(start.forked.folder / JOURNAL, place / JOURNAL)
    with closing(History(settings.database)) as history, working_in(folder, f"run {run}"):
        logs = RunLogs(folder, run)
        with closing(logs), subscribed(logs):
            if resumed is None:
                row = RunRow(run, task, optimizer, model, seed, began_at)
                history.add(row)
            else:
                row = history.resume(run)
                write_plan(folder, start.plan)
            emit(RunStarted(run, task, optimizer))
            try:
                yield RunRecord(run, folder, row.started_at, logs.say, history)
            except BaseException as error:
                _note_failure(history, run, error)
                emit(RunFinished(run, time.time() - began_at, _reason(error)))
                raise
            emit(RunFinished(run, time.time() - began_at))
    logs.check()


@contextmanager
def opened_journal(record: RunRecord, start: Start) -> Iterator[CallJournal]:
    """The calls of a run; those that failed are made again where the run ended by failures."""
    failed = start.resumed is not None and start.resumed.status == FAILED
    with closing(CallJournal(record.folder / JOURNAL, forget_failures=failed)) as journal:
        if start.resumed is not None or start.forked is not None:
            damaged = journal.recovered.damaged
            kept, forgotten = len(journal.records), journal.forgotten
            emit(JournalOpened(record.run, kept, damaged, forgotten))
        yield journal


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
