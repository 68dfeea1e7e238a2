"""The engines that one process holds, and who is told when the last of them is not needed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from dspy_toolkit.resilience.supervised.opening import Opening

if TYPE_CHECKING:
    from dspy_toolkit.resilience.supervised.supervisor import Supervisor

FIRST = 0

_lock = threading.Lock()
_shared: dict[str, Supervisor] = {}


class Openings:
    """What is open in a process, by number; the first one loads what the others share."""

    def __init__(self, first: Opening) -> None:
        self._held = {FIRST: first}
        self._numbers = itertools.count(FIRST + 1)
        # Finalizers run anywhere, so they may take no lock.
        self._forgotten: SimpleQueue[int] = SimpleQueue()

    def add(self, opening: Opening) -> int:
        """Hold one more; returns its number."""
        number = next(self._numbers)
        self._held[number] = opening
        return number

    def drop(self, number: int) -> bool:
        """Hold one no longer; whether none is left."""
        self._held.pop(number, None)
        return not self._held

    def forget(self, number: int) -> None:
        """Have one dropped soon; finalizers may call it."""
        self._forgotten.put(number)

    def forgotten(self) -> list[int]:
        """Those to be dropped since the last look."""
        found: list[int] = []
        while True:
            try:
                found.append(self._forgotten.get_nowait())
            except Empty:
                return found

    def all(self) -> dict[int, Opening]:
        """Those that are held, in the order they came."""
        return self._held.copy()


def enter(
    opening: Opening, shared_as: str | None, start: Callable[[], Supervisor]
) -> tuple[Supervisor, int]:
    """A process for an engine: the one that others of the same key have, or a new one.

    Args:
        shared_as: everything that decides what is loaded; None shares with nobody.
        start: starts a process with this opening as its first.

    Returns:
        Its supervisor, and the engine's number there.
    """
    if shared_as is None:
        return start(), FIRST
    with _lock:
        for key in [key for key, each in _shared.items() if each.closed]:
            del _shared[key]
        known = _shared.get(shared_as)
        number = None if known is None else known.join(opening)
        if known is not None and number is not None:
            return known, number
        _shared[shared_as] = started = start()
        return started, FIRST
