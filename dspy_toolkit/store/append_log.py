"""A file of records that only grows: what was appended survives a kill at any moment.

Each line is a CRC-32 and a JSON value. A line reaches the operating system before `append`
returns, so that the death of the process loses nothing; every five seconds the file is flushed to
the disk itself, so that a loss of power costs no more than that. Every line stands for itself: a
damaged one is left out, and those after it are read.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import StorageError
from dspy_toolkit.store.files import storage_errors, write_bytes

SYNC_EVERY_S = 5.0


@dataclass(frozen=True)
class Recovered:
    """What a log held when it was opened.

    Attributes:
        records: every value that could be read, in the order they were appended.
        damaged: lines that could not be read.
        torn: whether the last line was cut short, as by a kill; it is none of those damaged.
    """

    records: tuple[Any, ...] = ()
    damaged: int = 0
    torn: bool = False


class AppendLog:
    """A log open for writing. `append` may be called from several threads.

    Args:
        path: made where it does not exist. What cannot be read of it is cut out when it is opened.
        clock: seconds, for the flushing to disk.

    Raises (every method):
        StorageError: the disk is full or the place is not writable.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._writing = threading.Lock()
        self._syncing = threading.Lock()
        self.recovered = read_log(path)
        if self.recovered.damaged or self.recovered.torn:
            write_bytes(path, b"".join(map(_line, self.recovered.records)))
        with storage_errors(path):
            self._file = path.open("ab", buffering=0)
        self._synced_at = clock()

    def append(self, record: Any) -> None:
        """Add a JSON value."""
        line = _line(record)
        with self._writing, storage_errors(self._path):
            if self._file.closed:
                raise StorageError(f"{self._path} is closed; what ended meanwhile is not kept")
            written = _write(self._file.fileno(), line)
            if written < len(line):
                # What is left of the line would spoil the next one.
                os.ftruncate(self._file.fileno(), self._file.tell() - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._sync_now_and_then()

    def close(self) -> None:
        """Flush to disk and close; later appends fail."""
        with self._syncing, self._writing, storage_errors(self._path):
            if not self._file.closed:
                os.fsync(self._file.fileno())
                self._file.close()

    def _sync_now_and_then(self) -> None:
        """Flush to disk where it is time; others go on writing meanwhile."""
        if self._clock() - self._synced_at < SYNC_EVERY_S or not self._syncing.acquire(False):
            return
        try:
            if not self._file.closed:
                with storage_errors(self._path):
                    os.fsync(self._file.fileno())
                self._synced_at = self._clock()
        finally:
            self._syncing.release()


def read_log(path: Path) -> Recovered:
    """Read a log, whatever state it is in; empty where there is none."""
    if not path.is_file():
        return Recovered()
    with storage_errors(path):
        *lines, rest = path.read_bytes().split(b"\n")
    values = list(_values(lines))
    records = tuple(value for value in values if value is not _DAMAGED)
    return Recovered(records, len(values) - len(records), bool(rest))


_libc = ctypes.PyDLL(None, use_errno=True)
_libc.write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
_libc.write.restype = ctypes.c_ssize_t


def _write(descriptor: int, data: bytes) -> int:
    """`os.write` that keeps the interpreter.

    The operating system takes a line in microseconds; a thread that gives the interpreter away
    meanwhile gets it back from many busy ones after milliseconds, and all that append wait for it.
    """
    written: int = _libc.write(descriptor, data, len(data))
    if written < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return written


_DAMAGED = object()
_encoded = json.JSONEncoder(separators=(",", ":")).encode


def _values(lines: list[bytes]) -> Iterator[Any]:
    for line in lines:
        check, _, text = line.partition(b" ")
        if check == _check(text):
            yield json.loads(text)
        else:
            yield _DAMAGED


def _line(record: Any) -> bytes:
    text = _encoded(record).encode()
    return _check(text) + b" " + text + b"\n"


def _check(text: bytes) -> bytes:
    return f"{zlib.crc32(text):08x}".encode()
