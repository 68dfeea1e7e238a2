"""An engine that fails on command, for tests of programs and policies."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from dspy_toolkit.contract import (
    AsyncEngine,
    Engine,
    Message,
    Request,
    Response,
    StreamDeltaEvent,
    StreamEvent,
    TextDelta,
    TransportError,
)
from dspy_toolkit.resilience.driver import Driver, finish, finish_each
from dspy_toolkit.resilience.manual_clock import ManualClock

E = TypeVar("E")

GARBAGE = "\ufffd]]{{ \x00 lorem ]] ## {"


@dataclass(frozen=True, slots=True)
class _Fault:
    """What happens to one call.

    `after` is the number of stream events that come through first; `complete` has none.
    """

    error: BaseException | None = None
    delay_s: float = 0.0
    garbage: bool = False
    after: int = 0


_NONE = _Fault()


class FaultyEngine:
    """Any engine, with faults on command. Each command holds for the next calls in turn.

    Calls of threads and coroutines take their faults from the same line; calls beyond it go
    through as they are.

    Args:
        engine: answers whenever no fault is due.
        clock: the clock of the policy under test.

    Example:
        >>> faulty.fail_next(ServerError("down"), times=2)
        >>> faulty.slow_next(5.0)
    """

    def __init__(self, engine: Engine, clock: ManualClock) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._faults: deque[_Fault] = deque()
        self._calls = 0

    @property
    def calls(self) -> int:
        """How often it was asked, faults among them."""
        return self._calls

    def fail_next(self, error: BaseException, times: int = 1) -> None:
        """Raise an error instead of answering."""
        self._add(_Fault(error=error), times)

    def slow_next(self, seconds: float, times: int = 1) -> None:
        """Answer, but only after so long."""
        self._add(_Fault(delay_s=seconds), times)

    def stall(self, times: int = 1, after: int = 0) -> None:
        """Never answer; a stream stops after so many events."""
        self._add(_Fault(delay_s=math.inf, after=after), times)

    def garbage_next(self, times: int = 1) -> None:
        """Answer with rubbish instead of text."""
        self._add(_Fault(garbage=True), times)

    def cut_stream_after(self, events: int, times: int = 1) -> None:
        """Lose the connection after so many events of a stream, or before an answer is whole."""
        self._add(_Fault(error=TransportError("the connection was lost"), after=events), times)

    def heal(self) -> None:
        """Drop the faults that are still to come."""
        with self._lock:
            self._faults.clear()

    def complete(self, request: Request) -> Response:
        """Answer, or do what was commanded."""
        return finish(self._complete(self._clock.threads, self._engine, request))

    def stream(self, request: Request) -> Generator[StreamEvent, None, None]:
        """Answer piece by piece, or do what was commanded."""
        return finish_each(self._stream(self._clock.threads, self._engine, request))

    def close(self) -> None:
        """Close the engine within."""
        self._engine.close()

    @property
    def async_twin(self) -> _FaultyTwin:
        """The same faults over the engine's own twin.

        Raises:
            AttributeError: the engine has none.
        """
        twin: AsyncEngine = self._engine.async_twin  # type: ignore[attr-defined]
        return _FaultyTwin(self, twin)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("supports_") or name in ("supported_params", "model_string"):
            return getattr(self._engine, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Copies of a program must meet the same faults.
        return self

    def _add(self, fault: _Fault, times: int) -> None:
        with self._lock:
            self._faults.extend([fault] * times)

    def _take(self) -> _Fault:
        with self._lock:
            self._calls += 1
            return self._faults.popleft() if self._faults else _NONE

    async def _complete(self, driver: Driver[E], engine: E, request: Request) -> Response:
        fault = self._take()
        await _strike(fault, driver)
        response = await driver.complete(engine, request, None, _unheard)
        if fault.garbage:
            return replace(response, message=Message.assistant(GARBAGE))
        return response

    async def _stream(
        self, driver: Driver[E], engine: E, request: Request
    ) -> AsyncGenerator[StreamEvent, None]:
        fault = self._take()
        feed = driver.feed(engine, request, False, _unheard)
        count = 0
        try:
            while True:
                if count == fault.after:
                    await _strike(fault, driver)
                event = await feed.next(None)
                if event is None:
                    return
                count += 1
                yield _spoilt(event) if fault.garbage else event
        finally:
            await feed.close()


class _FaultyTwin:
    def __init__(self, faults: FaultyEngine, engine: AsyncEngine) -> None:
        self._faults = faults
        self._engine = engine

    async def complete(self, request: Request) -> Response:
        return await self._faults._complete(self._faults._clock.tasks, self._engine, request)

    def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        return self._faults._stream(self._faults._clock.tasks, self._engine, request)

    async def aclose(self) -> None:
        await self._engine.aclose()


def _unheard(late: bool) -> None:
    pass


async def _strike(fault: _Fault, driver: Driver[Any]) -> None:
    if fault.delay_s:
        await driver.sleep(fault.delay_s)
    if fault.error is not None:
        raise fault.error


def _spoilt(event: StreamEvent) -> StreamEvent:
    if isinstance(event, StreamDeltaEvent) and isinstance(event.delta, TextDelta):
        return StreamDeltaEvent(delta=TextDelta(text=GARBAGE, part_index=event.delta.part_index))
    return event
