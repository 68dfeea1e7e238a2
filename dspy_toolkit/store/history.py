"""The run history: one row a run, in SQLite, so that runs can be listed and searched.

The runs' folders beside it hold all that it holds. A damaged database is set aside and made anew
from them.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, URL, Engine, Float, Integer, String, create_engine, event, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateIndex, CreateTable

from dspy_toolkit.errors import IntegrityError, NotFound, StorageError
from dspy_toolkit.events import HistoryRebuilt, emit
from dspy_toolkit.store.files import storage_errors
from dspy_toolkit.store.lock import waiting_for
from dspy_toolkit.store.run_rows import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    RunRow,
    keep_copy,
    rows_of,
)

__all__ = ["FAILED", "FINISHED", "INTERRUPTED", "RUNNING", "History", "RunRow"]


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


class History:
    """The runs of one home. Several processes may use the same file.

    Args:
        path: of the database. The runs' folders lie in `runs` beside it. If it is damaged, it is
            renamed and rebuilt from them, which `HistoryRebuilt` tells.

    Raises (every method):
        StorageError: the database is locked, full or not writable.
        IntegrityError: the file was damaged while it was open; opened again it is rebuilt.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs = path.parent / "runs"
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = _open(path)
        try:
            self._prepare()
        except IntegrityError:
            self._engine.dispose()
            with waiting_for(path.parent, "run history"):
                self._recover()

    def _recover(self) -> None:
        self._engine = _open(self._path)
        try:
            # Another process may have mended it while this one waited.
            self._prepare()
            return
        except IntegrityError:
            self._engine.dispose()
        rows = list(rows_of(self._runs))
        fresh = self._path.with_name(f".{self._path.name}.rebuilt")
        fresh.unlink(missing_ok=True)
        self._engine = _open(fresh)
        self._prepare()
        with self._session() as session:
            session.add_all(_Run(**vars(row)) for row in rows)
        self._engine.dispose()
        kept = _replace(self._path, fresh)
        self._engine = _open(self._path)
        emit(HistoryRebuilt(str(kept), len(rows)))

    def _prepare(self) -> None:
        with self._errors(), self._engine.begin() as connection:
            verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if verdict != "ok":
                raise IntegrityError(f"run history {self._path} is damaged ({verdict})")
            # Not `create_all`, which looks first and creates then: two processes may look at once.
            for table in _Base.metadata.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
                for index in table.indexes:
                    connection.execute(CreateIndex(index, if_not_exists=True))

    def add(self, row: RunRow) -> None:
        """Record a run that starts."""
        keep_copy(self._runs, row)
        with self._session() as session:
            session.add(_Run(**vars(row)))

    def resume(self, run: str) -> RunRow:
        """Record that a run goes on.

        Raises:
            NotFound: no such run.
        """
        self._end(run, RUNNING, None, None)
        return self.get(run)

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
            keep_copy(self._runs, _row(found))

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
                    f"run history {self._path} is damaged ({reason}); run the command again, "
                    "which makes it anew from the runs' folders"
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


def _replace(path: Path, fresh: Path) -> Path:
    """Put a new database in the place of one that is kept; at no moment is there none."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    number = 0
    while (kept := path.with_name(f"{path.name}.damaged-{stamp}-{number}")).exists():
        number += 1
    with storage_errors(path):
        shutil.copyfile(path, kept)
        for ending in ("-wal", "-shm"):
            part = path.with_name(path.name + ending)
            if part.exists():
                part.rename(kept.with_name(kept.name + ending))
        fresh.replace(path)
    return kept


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
