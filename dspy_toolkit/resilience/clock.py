"""Time as the policy sees it, and the drivers that wait by it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Protocol

from dspy_toolkit.contract import AsyncEngine, Engine, Request, Response, gives_up_at
from dspy_toolkit.resilience.driver import Driver, Ended, Feed, Heeding, TimeIsUp
from dspy_toolkit.resilience.feeds import (
    AwaitedFeed,
    DirectFeed,
    PunctualFeed,
    TaskFeed,
    ThreadFeed,
)
from dspy_toolkit.resilience.workers import Job, Workers


class Clock(Protocol):
    """Tells the time and waits, for threads and for coroutines."""

    def now(self) -> float:
        """Seconds since some start; never goes back."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, UTC, as other processes see it."""
        ...

    @property
    def threads(self) -> Driver[Engine]: ...

    @property
    def tasks(self) -> Driver[AsyncEngine]: ...


class SystemClock:
    """The machine's time. Calls with a limit run on daemon threads, or as tasks; those of engines
    that heed limits themselves run where they are made."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def __init__(self) -> None:
        self.threads: Driver[Engine] = _Threads(Workers())
        self.tasks: Driver[AsyncEngine] = _Tasks()


class _Threads:
    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def complete(
        self, engine: Engine, request: Request, limit_s: float | None, ended: Ended
    ) -> Response:
        if limit_s is None:
            try:
                return engine.complete(request)
            finally:
                ended(False)
        if getattr(engine, "punctual", False):
            # A thread of its own would cost the most of it.
            try:
                with Heeding(limit_s):
                    return engine.complete(request)
            finally:
                ended(False)
        limit_s = min(max(limit_s, 0.0), threading.TIMEOUT_MAX)
        context = contextvars.copy_context()
        context.run(gives_up_at.set, time.monotonic() + limit_s)
        job = Job(lambda: context.run(engine.complete, request), ended)
        try:
            self._workers.start(job.run, job.told)
        except BaseException:
            ended(False)
            raise
        return job.wait(limit_s)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def granted(self, ticket: Future[None], limit_s: float | None) -> bool:
        try:
            ticket.result(limit_s)
        except FutureTimeout:
            return False
        return True

    def feed(self, engine: Engine, request: Request, limited: bool, ended: Ended) -> Feed:
        if limited and getattr(engine, "punctual", False):
            return PunctualFeed(DirectFeed(engine, request, ended))
        source = DirectFeed(engine, request, ended)
        return ThreadFeed(source, self._workers) if limited else source


class _Tasks:
    async def complete(
        self, engine: AsyncEngine, request: Request, limit_s: float | None, ended: Ended
    ) -> Response:
        if limit_s is None:
            try:
                return await engine.complete(request)
            finally:
                ended(False)
        given_up = False
        task = asyncio.ensure_future(_asked(engine, request))
        task.add_done_callback(lambda _: ended(given_up))
        try:
            done, _ = await asyncio.wait((task,), timeout=limit_s)
        except asyncio.CancelledError:
            given_up = True
            _let_go(task)
            raise
        if not done:
            given_up = True
            _let_go(task)
            raise TimeIsUp
        if task.cancelled():
            raise RuntimeError("the engine cancelled itself")
        return task.result()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def granted(self, ticket: Future[None], limit_s: float | None) -> bool:
        done, _ = await asyncio.wait((asyncio.wrap_future(ticket),), timeout=limit_s)
        return bool(done)

    def feed(self, engine: AsyncEngine, request: Request, limited: bool, ended: Ended) -> Feed:
        source = AwaitedFeed(engine, request, ended)
        return TaskFeed(source) if limited else source


async def _asked(engine: AsyncEngine, request: Request) -> Response:
    return await engine.complete(request)


def _let_go(task: asyncio.Future[Any]) -> None:
    task.add_done_callback(_look_away)
    task.cancel()


def _look_away(task: asyncio.Future[Any]) -> None:
    # Asking for the exception keeps asyncio from reporting it as one that nobody saw.
    if not task.cancelled():
        task.exception()
