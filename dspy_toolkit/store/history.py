"""The run history: one row a run, in SQLite, so that runs can be listed and searched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, URL, Engine, Float, Integer, String, create_engine, event, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateIndex, CreateTable

from dspy_toolkit.errors import IntegrityError, NotFound, StorageError
from dspy_toolkit.store.files import storage_errors

RUNNING = "running"
FINISHED = "finished"
FAILED = "failed"
INTERRUPTED = "interrupted"


class _Base(DeclarativeBase):
    pass


class _Run(_Base):
    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(String, primary_key=True)
    task: Mapped[str] = mapped_column(String, index=True)
    optimizer: Mapped[str] = mapped_column(String)
    model: Mapped[str] = mapped_column(String)
    seed: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[float] = mapped_column(Float, index=True)
    status: Mapped[str] = mapped_column(String)
    error: Mapped[str | None] = mapped_column(String, default=None)
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)


@dataclass(frozen=True)
class RunRow:
    """One run as the history knows it.

    Attributes:
        started_at: seconds since the epoch, UTC.
        status: "running", "finished", "failed" or "interrupted".
        error: why it did not finish, in one line.
        report: the run's `report.json`, once finished.
    """

    id: str
    task: str
    optimizer: str
    model: str
    seed: int
    started_at: float
    status: str = RUNNING
    error: str | None = None
    report: dict[str, Any] | None = None


class History:
    """The runs of one home. Several processes may use the same file.

    Raises (every method):
        StorageError: the database is locked, full or not writable.
        IntegrityError: the file is not a database any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = _open(path)
        with self._errors(), self._engine.begin() as connection:
            # Not `create_all`, which looks first and creates then: two processes may look at once.
            for table in _Base.metadata.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
                for index in table.indexes:
                    connection.execute(CreateIndex(index, if_not_exists=True))

    def add(self, row: RunRow) -> None:
        """Record a run that starts."""
        with self._session() as session:
            session.add(_Run(**vars(row)))

    def finish(self, run: str, report: dict[str, Any]) -> None:
        """Record a run's result."""
        self._end(run, FINISHED, None, report)

    def fail(self, run: str, error: str) -> None:
        """Record that a run ended without a result, and why."""
        self._end(run, FAILED, error, None)

    def interrupt(self, run: str) -> None:
        """Record that a run was stopped from outside."""
        self._end(run, INTERRUPTED, None, None)

    def get(self, run: str) -> RunRow:
        """One run by id.

        Raises:
            NotFound: no such run.
        """
        with self._session() as session:
            found = session.get(_Run, run)
            if found is None:
                raise self._unknown(session, run)
            return _row(found)

    def latest(self, limit: int = 50, task: str | None = None) -> list[RunRow]:
        """The newest runs, newest first; those of one task, where it is named."""
        with self._session() as session:
            query = select(_Run).order_by(_Run.started_at.desc(), _Run.id).limit(limit)
            if task is not None:
                query = query.where(_Run.task == task)
            return [_row(run) for run in session.scalars(query)]

    def remove(self, run: str) -> None:
        """Forget a run.

        Raises:
            NotFound: no such run.
        """
        with self._session() as session:
            found = session.get(_Run, run)
            if found is None:
                raise self._unknown(session, run)
            session.delete(found)

    def close(self) -> None:
        """Release the file."""
        self._engine.dispose()

    def _end(self, run: str, status: str, error: str | None, report: dict[str, Any] | None) -> None:
        with self._session() as session:
            found = session.get(_Run, run)
            if found is None:
                raise self._unknown(session, run)
            found.status, found.error, found.report = status, error, report

    def _unknown(self, session: Session, run: str) -> NotFound:
        close = get_close_matches(run, session.scalars(select(_Run.id)).all(), n=1)
        fix = f"did you mean {close[0]!r}?" if close else "`dspy-tk runs list` shows them"
        return NotFound(f"run {run!r} is not in {self._path}; {fix}")

    @contextlib.contextmanager
    def _session(self) -> Iterator[Session]:
        with self._errors(), Session(self._engine) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            reason = str(error.orig)
            if "malformed" in reason or "not a database" in reason:
                raise IntegrityError(
                    f"run history {self._path} is damaged ({reason}); move it away, "
                    "the runs' folders beside it hold everything it listed"
                ) from None
            raise StorageError(
                f"run history {self._path} cannot be used ({reason}); "
                "check free space and permissions"
            ) from None


def _open(path: Path) -> Engine:
    address = URL.create("sqlite", database=str(path))
    engine = create_engine(address, connect_args={"timeout": 30})

    # WAL lets one process write while others read; NORMAL loses no committed row to a crash of
    # the process, only perhaps the last ones to a loss of power.
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    return engine


def _row(run: _Run) -> RunRow:
    return RunRow(
        id=run.id,
        task=run.task,
        optimizer=run.optimizer,
        model=run.model,
        seed=run.seed,
        started_at=run.started_at,
        status=run.status,
        error=run.error,
        report=run.report,
    )
