"""Counting the model calls of one piece of work, and stopping them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dspy

from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.programs.journal import CallJournal

_KEY = "dspy_toolkit_tally"


class Stopped(BaseException):
    """Leaves DSPy at once: its loops catch every `Exception` and go on.

    Attributes:
        error: why; what the caller of the whole should see instead.
    """

    def __init__(self, error: ToolkitError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Calls:
    """Numbers of model calls.

    Attributes:
        made: answered by the model, or failed there.
        cached: answered from the cache.
    """

    made: int = 0
    cached: int = 0


STOPPED = Stopped.__name__
"""The error of a call that broke off because everything was stopped, see `CallFinished`."""


class CallTally:
    """Counts calls from any thread.

    `with counted(tally):` makes it hear of every call made by a `LocalLM` inside, in the threads
    that DSPy starts there too.

    Attributes:
        run: id of the run that the calls are made for, where there is one.
        journal: keeps their answers, so that none is made twice; None makes every call.
    """

    def __init__(self, run: str | None = None, journal: CallJournal | None = None) -> None:
        self.run = run
        self.journal = journal
        self._changed = threading.Condition()
        self._calls = Calls()
        self._running = 0
        self._reason: ToolkitError | None = None

    @property
    def calls(self) -> Calls:
        """The numbers so far."""
        return self._calls

    def begin(self) -> None:
        """A call starts. Raises `Stopped` once `stop` was called."""
        self.check()
        with self._changed:
            self._running += 1

    def end(self, *, cached: bool) -> None:
        """A call that began is over."""
        with self._changed:
            made, known = self._calls.made, self._calls.cached
            self._calls = Calls(made + (not cached), known + cached)
            self._running -= 1
            self._changed.notify_all()

    def note(self, *, made: bool) -> None:
        """A call was answered from the journal; `made` where it counts as the model's own."""
        with self._changed:
            self._calls = Calls(self._calls.made + made, self._calls.cached + (not made))

    def stop(self, error: ToolkitError) -> None:
        """Make every later call fail. The first reason counts."""
        with self._changed:
            self._reason = self._reason or error

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._reason is not None

    def check(self) -> None:
        """Raise `Stopped` once `stop` was called."""
        if self._reason is not None:
            raise Stopped(self._reason)

    def drain(self, timeout_s: float) -> None:
        """Wait until no call is running, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._running == 0, timeout_s)


@contextmanager
def counted(tally: CallTally) -> Iterator[CallTally]:
    """Count the calls made inside, in place of any tally outside."""
    with dspy.context(**{_KEY: tally}):
        yield tally


def current_tally() -> CallTally:
    """The tally of the surrounding `counted`, or one nobody looks at."""
    found = dspy.settings.get(_KEY)
    return found if isinstance(found, CallTally) else CallTally()
