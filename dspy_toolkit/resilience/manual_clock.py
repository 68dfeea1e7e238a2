"""A clock for tests: time passes when it is told to, or when somebody waits."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

from dspy_toolkit.contract import AsyncEngine, Engine, Request, Response, StreamEvent
from dspy_toolkit.resilience.driver import Driver, Ended, Feed, TimeIsUp
from dspy_toolkit.resilience.feeds import AwaitedFeed, DirectFeed

# How often other coroutines may run before a waiting one counts as waiting in vain.
TURNS = 100


class WouldHang(BaseException):
    """A call waits for what never comes and has no limit. On a real clock it would hang."""


class _OutOfTime(BaseException):
    def __init__(self, due: float) -> None:
        super().__init__(due)
        self.due = due


_due: ContextVar[float] = ContextVar("dspy_toolkit_manual_due", default=math.inf)


class ManualClock:
    """Time for tests, which then never sleep.

    Whoever waits by this clock waits no real time: the clock goes forward instead, up to the
    next limit, where the one that waits is given up on as it would be in real time.

    Args:
        start: what `now` says at first, in seconds.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._lock = threading.Lock()
        self.threads: Driver[Engine] = _ManualThreads(self)
        self.tasks: Driver[AsyncEngine] = _ManualTasks(self)

    def now(self) -> float:
        """Seconds since some start."""
        return self._now

    def wall(self) -> float:
        """The same: the epoch began with this clock."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if not seconds >= 0:
            raise ValueError(f"time goes forward only, got {seconds}")
        with self._lock:
            self._now += seconds

    def spend(self, seconds: float) -> None:
        """Wait: time passes, though not beyond the limit of the call that this is part of."""
        due = _due.get()
        if self._now + seconds <= due and seconds < math.inf:
            self.advance(seconds)
            return
        if due == math.inf:
            raise WouldHang(
                "a call waits for what never comes, and no timeout or deadline ends it; "
                "set timeouts or deadline_s in the policy"
            )
        self.advance(max(due - self._now, 0.0))
        raise _OutOfTime(due)


@dataclass
class _Limit:
    """Runs what is inside with a limit, and tells its own time-out from an outer one's."""

    clock: ManualClock
    limit_s: float | None
    late: bool = False
    _due: float = field(default=math.inf, init=False)

    def __enter__(self) -> _Limit:
        if self.limit_s is not None:
            self._due = self.clock.now() + self.limit_s
        self._token = _due.set(min(self._due, _due.get()))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _due.reset(self._token)
        own = isinstance(error, _OutOfTime) and error.due == self._due
        self.late = own or (error is None and self.clock.now() > self._due)
        if self.late:
            raise TimeIsUp from None


class _ManualThreads:
    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    async def complete(
        self, engine: Engine, request: Request, limit_s: float | None, ended: Ended
    ) -> Response:
        limit = _Limit(self._clock, limit_s)
        try:
            with limit:
                return engine.complete(request)
        finally:
            ended(limit.late)

    def feed(self, engine: Engine, request: Request, limited: bool, ended: Ended) -> Feed:
        return _ManualFeed(self._clock, partial(DirectFeed, engine, request), ended)

    async def sleep(self, seconds: float) -> None:
        self._clock.spend(seconds)

    async def granted(self, ticket: Future[None], limit_s: float | None) -> bool:
        if not ticket.done():
            self._clock.spend(math.inf if limit_s is None else limit_s)
        return ticket.done()


class _ManualTasks:
    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    async def complete(
        self, engine: AsyncEngine, request: Request, limit_s: float | None, ended: Ended
    ) -> Response:
        limit = _Limit(self._clock, limit_s)
        try:
            with limit:
                return await engine.complete(request)
        finally:
            ended(limit.late)

    def feed(self, engine: AsyncEngine, request: Request, limited: bool, ended: Ended) -> Feed:
        return _ManualFeed(self._clock, partial(AwaitedFeed, engine, request), ended)

    async def sleep(self, seconds: float) -> None:
        self._clock.spend(seconds)
        await asyncio.sleep(0)

    async def granted(self, ticket: Future[None], limit_s: float | None) -> bool:
        for _ in range(TURNS):
            if ticket.done():
                return True
            await asyncio.sleep(0)
        self._clock.spend(math.inf if limit_s is None else limit_s)
        return ticket.done()


class _ManualFeed:
    """A stream read in place, where a read that takes too long ends at its limit."""

    def __init__(
        self,
        clock: ManualClock,
        make: Callable[[Ended], DirectFeed | AwaitedFeed],
        ended: Ended,
    ) -> None:
        self._clock = clock
        self._source = make(self._note_end)
        self._over = False
        self._ended: Ended | None = ended

    async def next(self, limit_s: float | None) -> StreamEvent | None:
        limit = _Limit(self._clock, limit_s)
        try:
            with limit:
                return await self._source.next(None)
        finally:
            if limit.late:
                await self._source.close()
            self._tell(limit.late)

    async def close(self) -> None:
        await self._source.close()
        self._tell(False)

    def _note_end(self, late: bool) -> None:
        self._over = True

    def _tell(self, late: bool) -> None:
        if self._over and self._ended is not None:
            ended, self._ended = self._ended, None
            ended(late)
