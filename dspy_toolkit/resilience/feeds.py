"""An engine's stream as the policy reads it: in place, or on a thread or task of its own.

A stream is opened, read and closed on one thread and in one task, since engines may count on it.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator
from queue import Empty, SimpleQueue

from dspy_toolkit.contract import AsyncEngine, Engine, Request, StreamEvent, gives_up_at
from dspy_toolkit.resilience.driver import Ended, Heeding, TimeIsUp, finish
from dspy_toolkit.resilience.workers import Workers

# How long closing a stream may keep its reader; the rest happens in the background.
CLOSE_S = 1.0


class DirectFeed:
    """A stream for threads, read in place. Limits have no effect."""

    def __init__(self, engine: Engine, request: Request, ended: Ended) -> None:
        self._engine = engine
        self._request = request
        self._ended: Ended | None = ended
        # Whether the reader has given up on the stream.
        self.late = False
        self._events: Iterator[StreamEvent] | None = None

    async def next(self, limit_s: float | None) -> StreamEvent | None:
        try:
            if self._events is None:
                self._events = iter(self._engine.stream(self._request))
            event = next(self._events, None)
        except BaseException:
            await self.close()
            raise
        if event is None:
            await self.close()
        return event

    async def close(self) -> None:
        ended, self._ended = self._ended, None
        if ended is None:
            return
        try:
            close = getattr(self._events, "close", None)
            if close is not None:
                close()
        finally:
            ended(self.late)


class PunctualFeed:
    """A stream for threads of an engine that heeds limits itself, read in place."""

    def __init__(self, source: DirectFeed) -> None:
        self._source = source

    async def next(self, limit_s: float | None) -> StreamEvent | None:
        with Heeding(limit_s):
            return await self._source.next(None)

    async def close(self) -> None:
        await self._source.close()


class AwaitedFeed:
    """A stream for coroutines, read in place. Limits have no effect."""

    def __init__(self, engine: AsyncEngine, request: Request, ended: Ended) -> None:
        self._engine = engine
        self._request = request
        self._ended: Ended | None = ended
        # Whether the reader has given up on the stream.
        self.late = False
        self._events: AsyncIterator[StreamEvent] | None = None

    async def next(self, limit_s: float | None) -> StreamEvent | None:
        try:
            if self._events is None:
                self._events = aiter(self._engine.stream(self._request))
            event = await anext(self._events, None)
        except BaseException:
            await self.close()
            raise
        if event is None:
            await self.close()
        return event

    async def close(self) -> None:
        if self._ended is None:
            return
        try:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()
        finally:
            self.over()

    def over(self) -> None:
        """Tell that the stream has ended, once; also of one that a task never came to read."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self.late)


class ThreadFeed:
    """A stream for threads, read on a thread of its own, so that a read can be given up on."""

    def __init__(self, source: DirectFeed, workers: Workers) -> None:
        self._source = source
        # When the reader of the next event stops waiting; None ends the stream.
        self._orders: SimpleQueue[float | None] = SimpleQueue()
        self._replies: SimpleQueue[StreamEvent | BaseException | None] = SimpleQueue()
        self._workers = workers
        self._over: threading.Event | None = None
        self._closed = False

    async def next(self, limit_s: float | None) -> StreamEvent | None:
        if self._closed:
            return None
        limit_s = _waitable(limit_s)
        due = math.inf if limit_s is None else time.monotonic() + limit_s
        if self._over is None:
            self._start()
        self._orders.put(due)
        try:
            reply = self._replies.get(timeout=limit_s)
        except BaseException as error:
            self._source.late = self._closed = True
            self._orders.put(None)
            if isinstance(error, Empty):
                raise TimeIsUp from None
            raise
        if isinstance(reply, BaseException):
            self._closed = True
            # An engine that heeds the limit itself may be heard before this thread wakes.
            if isinstance(reply, Exception) and time.monotonic() >= due:
                raise TimeIsUp from reply
            raise reply
        self._closed = reply is None
        return reply

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._over is None:
            await self._source.close()
        else:
            self._orders.put(None)
            self._over.wait(CLOSE_S)

    def _start(self) -> None:
        over = threading.Event()
        context = contextvars.copy_context()
        self._workers.start(lambda: context.run(self._work), over.set)
        self._over = over

    def _work(self) -> None:
        while (due := self._orders.get()) is not None:
            gives_up_at.set(due)
            reply = self._read()
            self._replies.put(reply)
            if reply is None or isinstance(reply, BaseException):
                return
        finish(self._source.close())

    def _read(self) -> StreamEvent | BaseException | None:
        try:
            return finish(self._source.next(None))
        except BaseException as error:  # noqa: BLE001 - raised again on the thread that reads
            return error


class TaskFeed:
    """A stream for coroutines, read in a task of its own, so that a read can be given up on."""

    def __init__(self, source: AwaitedFeed) -> None:
        self._source = source
        self._orders: asyncio.Queue[asyncio.Future[StreamEvent | None]] = asyncio.Queue()
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    async def next(self, limit_s: float | None) -> StreamEvent | None:
        if self._closed:
            return None
        reply: asyncio.Future[StreamEvent | None] = asyncio.get_running_loop().create_future()
        self._orders.put_nowait(reply)
        if self._task is None:
            self._task = asyncio.ensure_future(self._work())
            self._task.add_done_callback(lambda _: self._source.over())
        try:
            done, _ = await asyncio.wait((reply,), timeout=limit_s)
        except asyncio.CancelledError:
            self._give_up(self._task)
            raise
        if not done:
            self._give_up(self._task)
            raise TimeIsUp
        self._closed = reply.exception() is not None or reply.result() is None
        return reply.result()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._task is None:
            await self._source.close()
        else:
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=CLOSE_S)

    def _give_up(self, task: asyncio.Task[None]) -> None:
        self._closed = self._source.late = True
        task.cancel()

    async def _work(self) -> None:
        try:
            while True:
                reply = await self._orders.get()
                try:
                    event = await self._source.next(None)
                except Exception as error:  # noqa: BLE001 - raised again in the task that reads
                    _answer(reply, error)
                    return
                _answer(reply, event)
                if event is None:
                    return
        finally:
            await self._source.close()


def _answer(reply: asyncio.Future[StreamEvent | None], answer: StreamEvent | Exception) -> None:
    if isinstance(answer, Exception):
        reply.set_exception(answer)
        # The reader may have left; asyncio need not report what nobody asks for.
        reply.exception()
    else:
        reply.set_result(answer)


def _waitable(limit_s: float | None) -> float | None:
    return None if limit_s is None else min(max(limit_s, 0.0), threading.TIMEOUT_MAX)
