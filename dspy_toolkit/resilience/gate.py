"""A bulkhead: so many calls run, so many wait in turn, the rest are refused at once."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future

from dspy_toolkit.resilience.errors import Full
from dspy_toolkit.resilience.policy import BulkheadPolicy


class Gate:
    """One engine's places. Threads and coroutines wait in the same line.

    Args:
        name: of the engine.
    """

    def __init__(self, name: str, policy: BulkheadPolicy) -> None:
        self._name = name
        self._policy = policy
        self._lock = threading.Lock()
        self._running = 0
        self._line: deque[Future[None]] = deque()

    @property
    def running(self) -> int:
        """Places taken."""
        return self._running

    @property
    def queued(self) -> int:
        """Calls in the line."""
        return len(self._line)

    @property
    def turns_ahead(self) -> float:
        """How many calls, one after the other, a new one has to wait for."""
        if self._running < self._policy.max_concurrent:
            return 0.0
        return (len(self._line) + 1) / self._policy.max_concurrent

    def ask(self) -> Future[None] | None:
        """Take a place, or stand in line for one.

        Returns:
            None: a place is taken. Otherwise a ticket, done when its place is taken.

        Raises:
            Full: the line is full too.
        """
        with self._lock:
            if self._running < self._policy.max_concurrent:
                self._running += 1
                return None
            if len(self._line) >= self._policy.max_queued:
                raise Full(self._name, self._running, len(self._line))
            ticket: Future[None] = Future()
            self._line.append(ticket)
            return ticket

    def leave(self, ticket: Future[None]) -> None:
        """Stop waiting. A place that came in the same moment goes to the next."""
        with self._lock:
            waiting = ticket in self._line
            if waiting:
                self._line.remove(ticket)
        if not waiting and not ticket.cancelled():
            self.release()

    def release(self) -> None:
        """Give a place back; the first in line has it."""
        while True:
            with self._lock:
                if not self._line:
                    self._running -= 1
                    return
                ticket = self._line.popleft()
            # False when a coroutine that waited was cancelled and took its ticket along.
            if ticket.set_running_or_notify_cancel():
                ticket.set_result(None)
                return
