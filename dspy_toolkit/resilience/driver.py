"""The one seam between the policy and the world: how it waits, and how it gives up on a call.

The policy is written once, as coroutines over a `Driver`. A driver for coroutines suspends. A
driver for threads blocks inside its methods and never suspends, so `finish` runs the same
coroutine to its end at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from dspy_toolkit.contract import Request, Response, StreamEvent, gives_up_at

T = TypeVar("T")
E_contra = TypeVar("E_contra", contravariant=True)

# Called once when a call has really ended, with whether the policy had given up on it by then.
Ended = Callable[[bool], None]


class TimeIsUp(Exception):
    """A call did not end within its limit. It may still be running."""


class Heeding:
    """A block in which an engine that heeds limits itself is asked.

    Args:
        limit_s: how long it may take; None is without end.

    Raises:
        TimeIsUp: it failed when the time was up.
    """

    __slots__ = ("_due", "_token")

    def __init__(self, limit_s: float | None) -> None:
        self._due = math.inf if limit_s is None else time.monotonic() + max(limit_s, 0.0)

    def __enter__(self) -> None:
        self._token = gives_up_at.set(self._due)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        gives_up_at.reset(self._token)
        if isinstance(error, Exception) and time.monotonic() >= self._due:
            raise TimeIsUp from error


class Feed(Protocol):
    """An engine's stream, read one event at a time."""

    async def next(self, limit_s: float | None) -> StreamEvent | None:
        """The next event; None after the last.

        Raises:
            TimeIsUp: it did not come within `limit_s`; nothing more can be read.
        """
        ...

    async def close(self) -> None:
        """Stop reading. What still runs is ended in the background."""
        ...


class Driver(Protocol[E_contra]):
    """Asks engines of one kind and waits, for threads or for coroutines."""

    async def complete(
        self, engine: E_contra, request: Request, limit_s: float | None, ended: Ended
    ) -> Response:
        """Ask an engine.

        A call that is given up on, for time or because the caller is cancelled, goes on in the
        background; its answer is dropped. `ended` is called when it has really ended.

        Raises:
            TimeIsUp: the answer did not come within `limit_s`.
        """
        ...

    def feed(self, engine: E_contra, request: Request, limited: bool, ended: Ended) -> Feed:
        """An engine's stream, opened by the first read.

        Args:
            limited: whether reads will have limits; without, they run where they are called.
            ended: called once, when the stream is exhausted, has failed or is closed.
        """
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def granted(self, ticket: Future[None], limit_s: float | None) -> bool:
        """Wait for a ticket; False when the limit came first."""
        ...


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine over a driver for threads to its end."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine over a driver for threads must not suspend")


def finish_each(events: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """The items of an asynchronous generator over a driver for threads."""
    try:
        while True:
            try:
                item = finish(events.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        finish(events.aclose())
