"""Counting the model calls of one piece of work, and stopping them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dspy

from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.programs.journal import CallJournal
from dspy_toolkit.programs.limits import BudgetSpent, Cost, FailureLimit, Ledger

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
        ledger: holds them to a budget; None holds them to none.
        failures: ends everything when too many of them fail; None never does.
    """

    def __init__(
        self,
        run: str | None = None,
        journal: CallJournal | None = None,
        ledger: Ledger | None = None,
        failures: FailureLimit | None = None,
    ) -> None:
        self.run = run
        self.journal = journal
        self.ledger = ledger
        self.failures = failures
        self._changed = threading.Condition()
        self._calls = Calls()
        self._asked = Cost()
        self._running = 0
        self._reason: ToolkitError | None = None
        self._next: CallTally | None = None

    def successor(self) -> CallTally:
        """A tally that counts on where this one is, and is not stopped.

        Threads that were started under this one stay stopped. What stops this one from now on
        stops both.
        """
        self._next = after = CallTally(self.run, self.journal, self.ledger, self.failures)
        after._calls, after._asked = self._calls, self._asked
        return after

    @property
    def calls(self) -> Calls:
        """The numbers so far."""
        return self._calls

    @property
    def asked(self) -> Cost:
        """What all calls so far would have cost without a cache or journal; no seconds."""
        return self._asked

    def begin(self, worst: Cost) -> None:
        """A call is to be made. Raises `Stopped` once `stop` was called, or the budget is spent."""
        self.check()
        if self.ledger is not None:
            try:
                self.ledger.admit(worst, self.check)
            except BudgetSpent as spent:
                self.stop(spent)
                raise Stopped(spent) from spent
        with self._changed:
            self._running += 1

    def end(self, worst: Cost, cost: Cost, *, made: bool, error: str | None = None) -> None:
        """A call that began is over.

        Args:
            worst: as it was begun.
            cost: what it came to, whether the model or a cache answered it.
            made: whether the model was asked.
            error: how it failed, or None.
        """
        if self.ledger is not None:
            self.ledger.settle(worst, cost if made else Cost())
        self.note(cost, made=made)
        with self._changed:
            self._running -= 1
            self._changed.notify_all()
        if made and self.failures is not None and not self.stopped:
            problem = self.failures.add(error)
            if problem is not None:
                self.stop(problem)

    def note(self, cost: Cost, *, made: bool) -> None:
        """Count a call; `made` where it counts as the model's own."""
        with self._changed:
            self._calls = Calls(self._calls.made + made, self._calls.cached + (not made))
            self._asked += cost

    def stop(self, error: ToolkitError) -> None:
        """Make every later call fail. The first reason counts."""
        with self._changed:
            self._reason = self._reason or error
        if self._next is not None:
            self._next.stop(error)

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
        if self._next is not None:
            self._next.drain(timeout_s)


@contextmanager
def counted(tally: CallTally) -> Iterator[CallTally]:
    """Count the calls made inside, in place of any tally outside."""
    with dspy.context(**{_KEY: tally}):
        yield tally


def current_tally() -> CallTally:
    """The tally of the surrounding `counted`, or one nobody looks at."""
    found = dspy.settings.get(_KEY)
    return found if isinstance(found, CallTally) else CallTally()
