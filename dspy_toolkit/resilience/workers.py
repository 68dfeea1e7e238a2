"""Threads that run what may have to be given up on.

They are daemons: a call that never ends must not keep the process from ending.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from dspy_toolkit.resilience.driver import Ended, TimeIsUp

T = TypeVar("T")

IDLE_S = 30.0


class Workers:
    """As many threads as there are jobs running; idle ones are used again, then end.

    Args:
        idle_s: how long a thread waits for its next job.
    """

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._process = os.getpid()

    def start(self, job: Callable[[], None], told: Callable[[], None]) -> None:
        """Run a job at once on a thread of its own. It must not raise.

        Args:
            told: called at the end, when the thread is free again. Whoever is woken by it finds
                the thread at rest, for the next job, and nothing else that wants to run.
        """
        with self._lock:
            if self._process != os.getpid():
                # Threads do not survive a fork.
                self._idle, self._process = [], os.getpid()
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = _Worker(self)
            worker.inbox.put((job, told))
            threading.Thread(target=worker.run, name="dspy-tk call", daemon=True).start()
        else:
            worker.inbox.put((job, told))

    def rest(self, worker: _Worker) -> None:
        """Take a worker back that has done its job."""
        with self._lock:
            self._idle.append(worker)

    def dismiss(self, worker: _Worker) -> bool:
        """Forget an idle worker; False when a job is on its way to it."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            return True

    @property
    def idle_s(self) -> float:
        """How long a thread waits for its next job."""
        return self._idle_s


class _Worker:
    def __init__(self, pool: Workers) -> None:
        self.inbox: SimpleQueue[tuple[Callable[[], None], Callable[[], None]]] = SimpleQueue()
        self._pool = pool

    def run(self) -> None:
        while True:
            try:
                job, told = self.inbox.get(timeout=self._pool.idle_s)
            except Empty:
                if self._pool.dismiss(self):
                    return
                continue
            try:
                job()
                self._pool.rest(self)
            finally:
                told()
            del job, told


class Job(Generic[T]):
    """A call on its way through a worker, and the thread that waits for it."""

    __slots__ = ("_call", "_done", "_ended", "_error", "_given_up", "_lock", "_over", "_result")

    def __init__(self, call: Callable[[], T], ended: Ended) -> None:
        self._call = call
        self._ended = ended
        self._lock = threading.Lock()
        self._done = threading.Lock()
        self._done.acquire()
        self._over = False
        self._given_up = False
        self._error: BaseException | None = None
        self._result: T

    def run(self) -> None:
        """Run the call, on the worker."""
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised again on the thread that waits
            self._error = error
        with self._lock:
            self._over = True
            late = self._given_up
        self._ended(late)

    def told(self) -> None:
        """Wake the caller, when the worker is free again."""
        self._done.release()

    def wait(self, limit_s: float) -> T:
        """Wait for the call, on the caller's thread.

        Raises:
            TimeIsUp: it did not end in time; it was given up on.
        """
        due = time.monotonic() + limit_s
        try:
            if not self._done.acquire(timeout=limit_s):
                if self._give_up():
                    raise TimeIsUp
                self._done.acquire()
        except BaseException:
            self._give_up()
            raise
        if self._error is not None:
            try:
                # An engine that heeds the limit itself may be heard before this thread wakes.
                if isinstance(self._error, Exception) and time.monotonic() >= due:
                    raise TimeIsUp from self._error
                raise self._error
            finally:
                # The traceback holds this frame; without this the pair would outlive the call.
                self._error = None
        return self._result

    def _give_up(self) -> bool:
        with self._lock:
            self._given_up = not self._over
            return self._given_up
