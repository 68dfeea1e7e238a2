"""Answers that end when their caller leaves: whole ones and streams of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dspy_toolkit.contract import LM15Error
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.events import RequestBroken, emit
from dspy_toolkit.server.errors import ApiError, from_engine, from_toolkit, stopping, unexpected
from dspy_toolkit.server.gateway import REQUEST_ID
from dspy_toolkit.server.writing import event

T = TypeVar("T")
_CLOSED = 499


async def unless_gone(request: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """Do some work, and leave it when the caller goes away.

    Raises:
        ApiError: the caller is gone (nobody will read it). Otherwise what the work raises.
    """
    working = asyncio.current_task()
    assert working is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        await _gone(request.receive)
        gone = True
        working.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone and working.cancelling() == 1:
            raise ApiError(_CLOSED, "the caller went away") from None
        raise
    finally:
        if gone:
            working.uncancel()
        await _ended(watching)


async def together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, or the first failure, with the rest given up."""
    if len(works) == 1:
        return [await works[0]]
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _ended(*tasks)


async def begun(
    request: HttpRequest, events: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """Wait for a stream's first event, so that what is wrong before it is an error like others."""
    try:
        first = await unless_gone(request, _first(events))
    except BaseException:
        await events.aclose()
        raise
    return _with_first(first, events)


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """The items of several streams as they come."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield item
        return
    items: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()

    async def read(stream: AsyncGenerator[T, None]) -> None:
        try:
            async for item in stream:
                await items.put((item,))
        except Exception as error:  # noqa: BLE001 - raised again where the streams are read
            await items.put(error)
        else:
            await items.put(None)

    tasks = [asyncio.ensure_future(read(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            got = await items.get()
            if isinstance(got, BaseException):
                raise got
            if got is None:
                left -= 1
            else:
                yield got[0]
    finally:
        await _ended(*tasks)
        for stream in streams:
            await stream.aclose()


class EventStream(Response):
    """Server-sent events; the work behind them is given up when the caller leaves."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], headers: dict[str, str] | None = None
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self._events = events
        more = {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})}
        self.init_headers({"content-type": "text/event-stream; charset=utf-8", **more})
        # A stream has no length; Starlette counts that of the empty body.
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send(send, str(scope["state"][REQUEST_ID])))
        watching = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # The server stops and waits no longer: say so in the stream.
            await _ended(sending, watching)
            # By then the caller may be gone, or have the whole.
            with suppress(OSError, RuntimeError):
                await send(_body(event(stopping().body), more=False))
            raise
        finally:
            await _ended(sending, watching)
            await self._events.aclose()

    async def _send(self, send: Send, request_id: str) -> None:
        try:
            async for piece in self._events:
                await send(_body(piece, more=True))
        except ApiError as error:
            await send(_body(event(error.body), more=True))
        except LM15Error as error:
            await send(_body(event(from_engine(error).body), more=True))
        except ToolkitError as error:
            await send(_body(event(from_toolkit(error).body), more=True))
        except OSError:
            return
        except Exception as error:  # noqa: BLE001 - the answer has begun, so it must be told in it
            emit(RequestBroken(request_id, type(error).__name__))
            await send(_body(event(unexpected(request_id).body), more=True))
        await send(_body(b"", more=False))


def _body(content: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first(events: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(events, None)


async def _with_first(
    first: bytes | None, rest: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    try:
        if first is None:
            return
        yield first
        async for item in rest:
            yield item
    finally:
        await rest.aclose()


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
