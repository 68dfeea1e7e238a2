"""One call that was let through to an engine, until it has ended and been counted."""

from __future__ import annotations

from collections import deque
from typing import NoReturn

from dspy_toolkit.contract import (
    LM15Error,
    StreamAssemblyError,
    StreamEndEvent,
    StreamErrorEvent,
    StreamEvent,
    StreamStartEvent,
    error_from_event,
)
from dspy_toolkit.events import AttemptFinished, CallTimedOut, LateAnswerDropped, emit
from dspy_toolkit.resilience.breaker import Permit
from dspy_toolkit.resilience.call import Visit
from dspy_toolkit.resilience.driver import Feed, TimeIsUp
from dspy_toolkit.resilience.errors import BrokenEngine, CallTimeout, blames_engine, kind_of
from dspy_toolkit.resilience.guarded import Guarded
from dspy_toolkit.resilience.limits import Limits, is_token

# Admission takes a little of the deadline; an attempt with all but that had its fair time.
NEARLY = 0.95


class Attempt:
    """One call that was let through to the engine, until it has ended and been counted."""

    def __init__(self, guard: Guarded, visit: Visit, permit: Permit | None) -> None:
        self._guard = guard
        self._visit = visit
        self._permit = permit
        self._settled = False
        self.request = visit.call.request
        self.now = guard.clock.now
        self.limits = Limits(guard.policy.timeouts, guard.clock.now(), visit.due)

    def ended(self, late: bool) -> None:
        """The engine is done with the call, whether anyone still waits or not."""
        self._guard.gate.release()
        if late:
            emit(LateAnswerDropped(self._guard.name, self._seconds()))

    def succeeded(self) -> None:
        """Count a good answer."""
        seconds = self._settle(None)
        if seconds is None:
            return
        if self._permit:
            self._permit.ended(failed=False, seconds=seconds)
        if self._guard.pace:
            self._guard.pace.saw(self._guard.clock.now(), seconds)

    def fail(self, error: BaseException) -> NoReturn:
        """Count a failure and raise it as one of the contract's, unless the caller itself left."""
        named = self._named(error)
        self._visit.failure = named
        if blames_engine(named) and not self._hurried(named):
            seconds = self._settle(kind_of(named))
            if seconds is not None and self._permit:
                self._permit.ended(failed=True, seconds=seconds)
        else:
            self.left(kind_of(named) if isinstance(named, Exception) else "cancelled")
        if named is error:
            raise error
        raise named from (None if isinstance(error, TimeIsUp) else error)

    def left(self, error: str = "cancelled") -> None:
        """End it with something that says nothing about the engine: its caller left, or erred."""
        if self._settle(error) is not None and self._permit:
            self._permit.cancelled()

    def _named(self, error: BaseException) -> BaseException:
        name = self._guard.name
        if isinstance(error, TimeIsUp):
            limit, seconds = self.limits.passed()
            emit(CallTimedOut(name, limit, seconds))
            return CallTimeout(name, limit, seconds)
        if isinstance(error, LM15Error) or not isinstance(error, Exception):
            return error
        return BrokenEngine(name, error)

    def _hurried(self, error: BaseException) -> bool:
        return (
            isinstance(error, CallTimeout)
            and error.limit == "deadline"
            and error.seconds < self._visit.fair_s * NEARLY
        )

    def _settle(self, error: str | None) -> float | None:
        if self._settled:
            return None
        self._settled = True
        seconds = self._seconds()
        emit(AttemptFinished(self._guard.name, seconds, error, self.limits.first_token_s))
        return seconds

    def _seconds(self) -> float:
        return self._guard.clock.now() - self.limits.started


class GuardedStream:
    """An engine's stream under the limits of its attempt.

    A failure is counted here; that the answer is good is for its reader to say.
    """

    def __init__(self, feed: Feed, attempt: Attempt) -> None:
        self._feed = feed
        self._read_ahead: deque[StreamEvent] = deque()
        self._idle_since: float | None = None
        self._started = False
        self._complete = False
        self.attempt = attempt

    async def reach_token(self) -> None:
        """Read up to the first token, or the end, and keep what was read."""
        while (event := await self._read()) is not None:
            self._read_ahead.append(event)
            if is_token(event):
                return

    async def next(self) -> StreamEvent | None:
        """The next event; None after the last.

        Raises:
            CallTimeout, BrokenEngine, or the engine's own error.
        """
        return self._read_ahead.popleft() if self._read_ahead else await self._read()

    async def close(self) -> None:
        """Stop reading."""
        self.attempt.left()
        await self._feed.close()

    async def _read(self) -> StreamEvent | None:
        limits, now = self.attempt.limits, self.attempt.now
        started = now()
        if self._idle_since is not None:
            limits.paused(started - self._idle_since)
        try:
            event = await self._feed.next(limits.left_s(started))
            self._follow(event)
        except BaseException as error:  # noqa: BLE001 - counted and raised again
            if self._complete and isinstance(error, Exception):
                # The answer is whole; what its engine does afterwards takes nothing from it.
                return None
            await self._feed.close()
            self.attempt.fail(error)
        self._idle_since = now()
        if event is not None:
            limits.heard(event, self._idle_since)
        return event

    def _follow(self, event: StreamEvent | None) -> None:
        if isinstance(event, StreamErrorEvent):
            raise error_from_event(event)
        if event is None:
            if not self._complete:
                raise StreamAssemblyError(
                    "the engine's stream ended before its answer was complete"
                )
            return
        if self._complete or isinstance(event, StreamStartEvent) == self._started:
            raise StreamAssemblyError(
                f"the engine's stream has a {event.type!r} event where none may be"
            )
        self._started = True
        self._complete = isinstance(event, StreamEndEvent)
