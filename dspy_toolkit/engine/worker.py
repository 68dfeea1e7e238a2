"""The engine thread: it alone touches MLX, and it outlives every failure of a single row.

A lazy MLX array raises when it is evaluated on another thread than the one that built it, so
loading, prefill, decoding and sampling all happen here; callers only put sequences in and wait.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from dspy_toolkit.engine.refusals import EngineStopped, QueueFull, TooLate
from dspy_toolkit.engine.sequence import Drawn, Failed, Finished, Sequence
from dspy_toolkit.engine.stats import Counts
from dspy_toolkit.engine.switching import soon
from dspy_toolkit.events import EngineDied, emit


class Rows(Protocol):
    """What the thread drives: a `Stepper`, or a stand-in without a model.

    A step may hand out several tokens of a row, in order, and some of rows that ended before them.
    """

    @property
    def counts(self) -> Counts: ...

    @property
    def rows(self) -> list[Sequence]: ...

    @property
    def waiting(self) -> int: ...

    def add(self, sequence: Sequence) -> None: ...

    def remove(self, sequence: Sequence) -> None: ...

    def step(self) -> list[tuple[Sequence, Drawn]]: ...

    def embed(self, tokens: list[int]) -> list[float]: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


Facts = TypeVar("Facts")


class Question:
    """Something to do with the batch between two steps, and who waits for what it gives."""

    def __init__(self, ask: Callable[[Rows], Any]) -> None:
        self._ask = ask
        self.answer: Future[Any] = Future()

    def put(self, batch: Rows) -> None:
        """Ask, unless nobody waits any more."""
        if not self.answer.set_running_or_notify_cancel():
            return
        try:
            self.answer.set_result(self._ask(batch))
        except Exception as error:  # noqa: BLE001 - raised again on the thread that waits
            self.answer.set_exception(error)


Inbox = SimpleQueue[Sequence | Question | Callable[[], None] | None]


class Worker(Generic[Facts]):
    """One thread that loads a model and answers sequences until it is closed.

    Args:
        load: called on the thread; returns what callers may know of the model, and an empty
            batch, which alone holds the model, so that closing the thread frees it.
        name: of the model, for people.
        queue: most calls that may wait.

    Raises:
        Whatever `load` raises.
    """

    def __init__(
        self, load: Callable[[], tuple[Facts, Rows]], name: str, queue: int = 1024
    ) -> None:
        self._queue = queue
        self._refused = 0
        self._inbox: Inbox = SimpleQueue()
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._name = name
        self._process = os.getpid()
        self._serving: _Serving | None = None
        ready: SimpleQueue[tuple[Facts] | BaseException] = SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, args=(load, ready), name=f"dspy-tk engine {name}", daemon=True
        )
        self._thread.start()
        loaded = ready.get()
        if isinstance(loaded, BaseException):
            self._thread.join()
            raise loaded
        (self.facts,) = loaded

    @property
    def alive(self) -> bool:
        """Whether a call made now would be taken."""
        return self._reason is None and self._process == os.getpid()

    @property
    def running(self) -> int:
        """Calls the thread holds, waiting or decoding; those it has not heard of are left out."""
        return 0 if self._serving is None else self._serving.held

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        counts = Counts() if self._serving is None else self._serving.counts
        return replace(counts, refused=self._refused)

    def submit(self, sequence: Sequence) -> None:
        """Hand a sequence over; its sink hears the end.

        Raises:
            EngineStopped: the thread has ended, or lives in another process.
            QueueFull: too many calls wait.
        """
        waiting = self._inbox.qsize() + (0 if self._serving is None else self._serving.waiting)
        if waiting > self._queue:
            self._refused += 1
            raise QueueFull(
                f"{waiting} calls wait for this model and the queue takes {self._queue}; try again "
                "later, make fewer calls at once, or raise the engine option queue"
            )
        self._put(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Free a sequence's row. Its sink may still be called."""
        sequence.cancelled = True
        self._inbox.put(sequence)

    def post(self, task: Callable[[], None]) -> None:
        """Have the thread run a task between two steps. Takes no lock, so finalizers may call it.

        The collector runs finalizers on any thread at any moment, even on one that holds a lock
        the task needs: run in place, it would wait for itself.
        """
        self._inbox.put(task)

    def ask(self, question: Callable[[Rows], Any]) -> Future[Any]:
        """Have the thread do something with its batch between two steps.

        Raises:
            EngineStopped: as `submit`.
        """
        asked = Question(question)
        self._put(asked)
        return asked.answer

    def close(self) -> None:
        """End the thread and wait for it. Calls in flight fail."""
        with self._lock:
            self._reason = self._reason or "the engine is closed"
        self._inbox.put(None)
        if self._process == os.getpid() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _put(self, item: Sequence | Question) -> None:
        if self._process != os.getpid():
            raise EngineStopped("the engine was opened in another process; open it again here")
        with self._lock:
            if self._reason is not None:
                raise EngineStopped(self._reason)
            self._inbox.put(item)

    def _run(
        self,
        load: Callable[[], tuple[Facts, Rows]],
        ready: SimpleQueue[tuple[Facts] | BaseException],
    ) -> None:
        try:
            facts, batch = load()
            serving = self._serving = _Serving(self._inbox, batch)
        except BaseException as error:  # noqa: BLE001 - raised again on the thread that waits
            self._reason = f"the model did not load: {error}"
            ready.put(error)
            return
        ready.put((facts,))
        cause: BaseException | None = None
        try:
            serving.run()
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear why
            cause = error
        self._end(serving, cause)

    def _end(self, serving: _Serving, cause: BaseException | None) -> None:
        """Tell everyone first: what comes after may fail too, on a device that is broken."""
        with self._lock:
            if cause is not None:
                self._reason = f"the engine thread died: {type(cause).__name__}: {cause}"
            reason = self._reason = self._reason or "the engine is closed"
        stopped = EngineStopped(reason)
        stopped.__cause__ = cause
        for item in serving.left():
            if isinstance(item, Question):
                item.answer.set_exception(stopped)
            else:
                item.fail(stopped)
        if cause is not None:
            emit(EngineDied(self._name, reason))
        serving.close()


class _Serving:
    """What the thread does once the model is loaded."""

    def __init__(self, inbox: Inbox, batch: Rows) -> None:
        self._inbox = inbox
        self._batch = batch
        self._waiting: deque[Sequence] = deque()
        self._suspects: deque[Sequence] = deque()

    @property
    def held(self) -> int:
        """Sequences without an answer."""
        return len(self._batch.rows) + len(self._suspects) + len(self._waiting)

    @property
    def waiting(self) -> int:
        """Sequences that nothing was done for yet."""
        return len(self._waiting) + self._batch.waiting

    @property
    def counts(self) -> Counts:
        return self._batch.counts

    def run(self) -> None:
        """Take, admit, step, hand back, until told to end."""
        while self._take(wait=True):
            with soon():
                while self._batch.rows or self._waiting or self._suspects:
                    if not self._go_on():
                        return

    def _go_on(self) -> bool:
        """One step, and what has come in meanwhile; False when told to end."""
        self._drop_late()
        self._admit()
        if self._batch.rows:
            try:
                drawn = self._batch.step()
            except Exception as error:  # noqa: BLE001 - MLX raises many kinds, one row's only
                self._isolate(error)
            else:
                for sequence, token in drawn:
                    self._accept(sequence, token)
        return self._take(wait=False)

    def left(self) -> list[Sequence | Question]:
        """Every sequence and question that still has no answer."""
        left: list[Sequence | Question] = [*self._batch.rows, *self._suspects, *self._waiting]
        while not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, Sequence):
                left += [] if item.cancelled else [item]
            elif isinstance(item, Question):
                left += [item] if item.answer.set_running_or_notify_cancel() else []
        return left

    def close(self) -> None:
        """Free the model."""
        self._batch.close()

    def _take(self, wait: bool) -> bool:
        """Empty the inbox, waiting for its first item if asked; False when told to end."""
        while wait or not self._inbox.empty():
            item = self._inbox.get()
            wait = False
            if item is None:
                return False
            if isinstance(item, Question):
                item.put(self._batch)
            elif not isinstance(item, Sequence):
                item()
            elif item.cancelled:
                self._drop(item)
            else:
                self._waiting.append(item)
        return True

    def _drop_late(self) -> None:
        """Free the rows of callers who have stopped waiting."""
        now = time.monotonic()
        held = (*self._batch.rows, *self._waiting, *self._suspects)
        for sequence in [each for each in held if each.gives_up_at <= now]:
            self._drop(sequence)
            self.counts.given_up += 1
            sequence.fail(TooLate("the caller has stopped waiting"))

    def _drop(self, sequence: Sequence) -> None:
        for queue in (self._waiting, self._suspects):
            if sequence in queue:
                queue.remove(sequence)
        if sequence in self._batch.rows:
            self._batch.remove(sequence)

    def _admit(self) -> None:
        queue = self._suspects or self._waiting
        alone = bool(self._suspects)
        while queue and not (alone and self._batch.rows):
            sequence = queue.popleft()
            try:
                self._batch.add(sequence)
            except Exception as error:  # noqa: BLE001 - a bad row fails its own caller
                sequence.fail(error)

    def _accept(self, sequence: Sequence, token: Drawn) -> None:
        end: Finished | Failed | None
        try:
            end = sequence.accept(token)
        except Exception as error:  # noqa: BLE001 - a bad row fails its own caller
            end = Failed(error)
        if end is not None:
            self._batch.remove(sequence)
            sequence.sink(end)

    def _isolate(self, error: Exception) -> None:
        """After a failed step, run its rows again one by one: the one at fault fails alone."""
        rows = self._batch.rows
        self._batch.reset()
        if len(rows) == 1:
            rows[0].fail(error)
        else:
            self._suspects.extend(rows)
