"""Loaded models of this process: opening one twice shares its weights and its thread."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from dspy_toolkit.engine.worker import Worker


@dataclass
class _Shared:
    worker: Worker[Any]
    users: int


_lock = threading.Lock()
_shared: dict[Hashable, _Shared] = {}


class Lease:
    """The right to use a worker until released; the last one to release it closes it.

    Attributes:
        worker: the engine thread.
        fresh: whether this lease started it.
        released: whether it was given back.
    """

    def __init__(self, key: Hashable, worker: Worker[Any], fresh: bool) -> None:
        self._key = key
        self.worker = worker
        self.fresh = fresh
        self.released = False

    def release(self) -> None:
        """Give the worker back; doing it again changes nothing."""
        with _lock:
            if self.released:
                return
            self.released = True
            entry = _shared.get(self._key)
            if entry is None or entry.worker is not self.worker:
                return
            entry.users -= 1
            if entry.users:
                return
            del _shared[self._key]
        self.worker.close()


def lease(key: Hashable, start: Callable[[], Worker[Any]]) -> Lease:
    """Share the worker of `key`, starting it if there is none that lives.

    Args:
        key: everything that decides what is loaded, digest of the weights among it.
        start: loads the model; others who open a model wait meanwhile.
    """
    with _lock:
        entry = _shared.get(key)
        fresh = entry is None or not entry.worker.alive
        if entry is None or fresh:
            entry = _shared[key] = _Shared(start(), 0)
        entry.users += 1
        return Lease(key, entry.worker, fresh)


@atexit.register
def close_all() -> None:
    """End every engine thread: one that is inside MLX when Python ends crashes the process."""
    with _lock:
        entries = list(_shared.values())
        _shared.clear()
    for entry in entries:
        entry.worker.close()
