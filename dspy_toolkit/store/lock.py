"""Who works in a folder: a lock that the system gives back when its process ends, even by a kill.

The lock is on a hidden file, and of the kind that counts per open file, so that process ids, which
are given out again, are never looked at. It holds between the processes of one machine.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.store.files import storage_errors

NAME = ".lock"


@contextmanager
def working_in(folder: Path, what: str) -> Iterator[None]:
    """Be the only one who works in a folder.

    Args:
        folder: must exist.
        what: what it is to the user ("run x"), for the message.

    Raises:
        InvalidInput: another process, or another thread, works in it.
    """
    with storage_errors(folder):
        file = (folder / NAME).open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(
                f"{what} is being worked on by another process; wait for it or stop it"
            ) from None
        yield


def in_use(folder: Path) -> bool:
    """Whether someone works in a folder now."""
    try:
        file = (folder / NAME).open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def waiting_for(folder: Path, what: str) -> Iterator[None]:
    """Be the only one who changes a folder's files, after waiting for whoever does; for moments.

    Args:
        folder: made where it does not exist.
        what: what it is to the user, for the message.

    Raises:
        StorageError: the folder cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / NAME).open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
