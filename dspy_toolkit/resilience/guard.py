"""One engine behind its bulkhead, breaker, timeouts and load shedding: a single guarded attempt."""

from __future__ import annotations

import math
from concurrent.futures import Future
from typing import Any, TypeVar

from dspy_toolkit.contract import (
    Response,
    StreamEvent,
    materialize_response,
)
from dspy_toolkit.events import CallShed, emit
from dspy_toolkit.resilience.attempt import Attempt, GuardedStream
from dspy_toolkit.resilience.call import Visit
from dspy_toolkit.resilience.driver import Driver
from dspy_toolkit.resilience.errors import (
    DeadlineUnreachable,
    QueueTimeout,
    Refused,
    RubbishAnswer,
)
from dspy_toolkit.resilience.guarded import Guarded

E = TypeVar("E")


class Guard(Guarded):
    """Asks one engine behind its guards, one attempt a call."""

    async def complete(self, visit: Visit, driver: Driver[E], engine: E) -> Response:
        """Ask the engine once.

        Raises:
            Refused, CallTimeout, RubbishAnswer, BrokenEngine, or the engine's own error.
        """
        if self.policy.timeouts.on_tokens:
            return await self._assemble(visit, driver, engine)
        attempt = await self._admit(visit, driver)
        limit_s = attempt.limits.left_s(attempt.limits.started)
        try:
            response = await driver.complete(engine, visit.call.request, limit_s, attempt.ended)
        except BaseException as error:  # noqa: BLE001 - counted and raised again
            attempt.fail(error)
        return self._accepted(response, attempt)

    async def open(self, visit: Visit, driver: Driver[E], engine: E) -> GuardedStream:
        """Open the engine's stream and read it up to its first token, or its end.

        Raises:
            As `complete`, but for RubbishAnswer.
        """
        attempt = await self._admit(visit, driver)
        attempt.limits.watch_tokens()
        limited = attempt.limits.left_s(0.0) is not None or self.policy.timeouts.on_tokens
        feed = driver.feed(engine, visit.call.request, limited, attempt.ended)
        stream = GuardedStream(feed, attempt)
        await stream.reach_token()
        return stream

    async def _assemble(self, visit: Visit, driver: Driver[E], engine: E) -> Response:
        stream = await self.open(visit, driver, engine)
        events: list[StreamEvent] = []
        while (event := await stream.next()) is not None:
            events.append(event)
        try:
            response = materialize_response(iter(events), visit.call.request)
        except Exception as error:  # noqa: BLE001 - counted and raised again
            stream.attempt.fail(error)
        return self._accepted(response, stream.attempt)

    def _accepted(self, response: Response, attempt: Attempt) -> Response:
        if not isinstance(response, Response):
            attempt.fail(TypeError(f"it returned a {type(response).__name__}, not a Response"))
        try:
            good = self.accept is None or self.accept(attempt.request, response)
        except BaseException:
            # Whoever looks at answers failed, not the engine.
            attempt.left("unexpected")
            raise
        if not good:
            attempt.fail(RubbishAnswer(self.name, response.text))
        attempt.succeeded()
        return response

    async def _admit(self, visit: Visit, driver: Driver[Any]) -> Attempt:
        try:
            self._check_time(visit)
            ticket = self.gate.ask()
            if ticket is not None:
                await self._wait_in_line(ticket, visit, driver)
            try:
                permit = self.breaker.admit() if self.breaker else None
            except Refused:
                self.gate.release()
                raise
        except Refused as refusal:
            emit(CallShed(self.name, refusal.reason))
            raise refusal from visit.failure
        visit.spend()
        return Attempt(self, visit, permit)

    def _check_time(self, visit: Visit) -> None:
        if visit.due == math.inf:
            return
        now = self.clock.now()
        expected_s = self.pace.expected_s(now) if self.pace else None
        needed_s = 0.0 if expected_s is None else expected_s * (1.0 + self.gate.turns_ahead)
        if visit.due - now <= needed_s:
            raise DeadlineUnreachable(self.name, visit.due - now, needed_s)

    async def _wait_in_line(self, ticket: Future[None], visit: Visit, driver: Driver[Any]) -> None:
        started = self.clock.now()
        left_s = None if visit.due == math.inf else visit.due - started
        try:
            if self.breaker:
                self.breaker.check()
            granted = await driver.granted(ticket, left_s)
        except BaseException:
            self.gate.leave(ticket)
            raise
        if not granted:
            self.gate.leave(ticket)
            raise QueueTimeout(self.name, self.clock.now() - started)
