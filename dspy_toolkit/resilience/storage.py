"""Where a breaker's state lies so that it survives a restart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

from dspy_toolkit.errors import (
    IntegrityError,
    InvalidInput,
    NotFound,
    StorageError,
    ToolkitError,
    nearest,
)
from dspy_toolkit.events import BreakerStateLost, emit
from dspy_toolkit.store.files import read_json, write_json

STATES = ("closed", "open", "half-open")


class BreakerStorage(Protocol):
    """What pybreaker keeps a circuit's state in; its memory and Redis storages are such."""

    @property
    def name(self) -> str: ...

    state: str
    opened_at: datetime | None

    @property
    def counter(self) -> int: ...

    @property
    def success_counter(self) -> int: ...

    def increment_counter(self) -> None: ...

    def reset_counter(self) -> None: ...

    def increment_success_counter(self) -> None: ...

    def reset_success_counter(self) -> None: ...


class FileStorage:
    """One circuit's state in a small JSON file, written atomically.

    A change that another process makes to the file is seen at the next call. A file that cannot
    be read or written is reported by an event and costs no call: the state is then in memory
    only. The window of calls is not kept, and neither are pybreaker's own counters, which
    nothing here uses.

    Args:
        path: of the file. It need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = "closed"
        self._opened_at: datetime | None = None
        self._seen: tuple[int, ...] | None = None
        self._refresh()
        if self._seen is None:
            # So that it can be found, and turned by hand, before it has ever changed.
            self._write()

    @property
    def name(self) -> str:
        """What it is, for people."""
        return str(self._path)

    @property
    def state(self) -> str:
        """One of `STATES`."""
        self._refresh()
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state
        self._write()

    @property
    def opened_at(self) -> datetime | None:
        """When the circuit was opened last."""
        return self._opened_at

    @opened_at.setter
    def opened_at(self, when: datetime | None) -> None:
        self._opened_at = when
        self._write()

    @property
    def counter(self) -> int:
        """Always 0: the breaker's window counts."""
        return 0

    @property
    def success_counter(self) -> int:
        """Always 0: the breaker's window counts."""
        return 0

    def increment_counter(self) -> None:
        """Nothing."""

    def reset_counter(self) -> None:
        """Nothing."""

    def increment_success_counter(self) -> None:
        """Nothing."""

    def reset_success_counter(self) -> None:
        """Nothing."""

    def _write(self) -> None:
        when = None if self._opened_at is None else self._opened_at.isoformat()
        try:
            write_json(self._path, {"state": self._state, "opened_at": when})
        except StorageError as error:
            emit(BreakerStateLost(str(self._path), str(error)))
        self._seen = self._look()

    def _refresh(self) -> None:
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._state, self._opened_at = _read(self._path)
        except NotFound:
            return
        except ToolkitError as error:
            emit(BreakerStateLost(str(self._path), str(error)))

    def _look(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class KeptState:
    """A circuit's state as it lies on disk.

    Attributes:
        state: one of `STATES`.
        opened_at: when it was opened last, UTC; None if it never was.
    """

    engine: str
    state: str
    opened_at: datetime | None


def stored_in(folder: Path) -> Callable[[str], FileStorage]:
    """A file for each engine's breaker: `<folder>/<engine>.json`."""
    return lambda engine: FileStorage(_file(folder, engine))


def kept_states(folder: Path) -> list[KeptState]:
    """The states that lie in a folder, by engine.

    Raises:
        IntegrityError: one is damaged.
    """
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return [kept_state(folder, unquote(file.stem)) for file in files]


def kept_state(folder: Path, engine: str) -> KeptState:
    """One engine's state.

    Raises:
        NotFound: it has none there. IntegrityError: it is damaged.
    """
    path = _file(folder, engine)
    if not path.is_file():
        names = [unquote(file.stem) for file in folder.glob("*.json")]
        hint = nearest(engine, names) if names else "no circuit has one there; is it the folder?"
        raise NotFound(f"engine {engine!r} has no state in {folder}; {hint}")
    return KeptState(engine, *_read(path))


def turn_state(folder: Path, engine: str, state: str) -> None:
    """Open or close a circuit by hand; who uses it sees that at the next call.

    Raises:
        NotFound: the engine has no state there. StorageError: it cannot be written.
    """
    path = _file(folder, engine)
    if not path.is_file():
        kept_state(folder, engine)
    opened_at = datetime.now(UTC).isoformat() if state == "open" else None
    write_json(path, {"state": state, "opened_at": opened_at})


def _file(folder: Path, engine: str) -> Path:
    return folder / f"{quote(engine, safe='')}.json"


def _read(path: Path) -> tuple[str, datetime | None]:
    try:
        content = read_json(path, "breaker state")
    except (InvalidInput, IntegrityError):
        raise _damaged(path, "no JSON") from None
    try:
        state, when = content["state"], content["opened_at"]
        if state not in STATES:
            raise ValueError(f"state {state!r}")
        return state, None if when is None else datetime.fromisoformat(when)
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"breaker state {path} is damaged ({why}), so the circuit starts anew; "
        "`dspy-tk breakers close` writes it again"
    )
