"""A call's way through the chain of guarded engines, written once for threads and coroutines."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from dspy_toolkit.contract import (
    LM15Error,
    Request,
    Response,
    StreamEndEvent,
    StreamEvent,
    answered_in_place,
    materialize_response,
)
from dspy_toolkit.events import FallbackUsed, emit
from dspy_toolkit.resilience.answering import note
from dspy_toolkit.resilience.attempt import GuardedStream
from dspy_toolkit.resilience.call import Call, Visit
from dspy_toolkit.resilience.clock import Clock
from dspy_toolkit.resilience.deadline import due
from dspy_toolkit.resilience.driver import Driver
from dspy_toolkit.resilience.errors import EveryEngineFailed, another_may_answer, kind_of
from dspy_toolkit.resilience.guard import Guard
from dspy_toolkit.resilience.policy import Policy
from dspy_toolkit.resilience.retry import Retry

E = TypeVar("E")
R = TypeVar("R")

ANSWERED_BY = "answered_by"


class Remembers(Protocol):
    """An engine that keeps the answers of those before it in the chain."""

    def remember(self, request: Request, response: Response) -> None: ...


@dataclass(frozen=True)
class _Link:
    guard: Guard
    retry: Retry
    # What the engines after this one keep: seconds of the deadline, and one attempt each.
    later_s: float
    later: int
    # What an attempt of this one gets when nothing was spent before it.
    fair_s: float
    memories: tuple[Remembers, ...]

    def visit(self, call: Call) -> Visit:
        left = min(self.guard.policy.retry.attempts, call.attempts - self.later)
        return Visit(call, self.guard.name, call.deadline - self.later_s, left, self.fair_s)


_Ask = Callable[[Guard], Callable[..., Awaitable[R]]]
_complete: _Ask[Response] = attrgetter("complete")
_open: _Ask[GuardedStream] = attrgetter("open")


class Chain:
    """The guards of a policy in order, over engines of one kind.

    Args:
        guards, engines: by name, as the policy names them.
        driver: asks engines of that kind.
        chance: draws the jitter of waits.
    """

    def __init__(
        self,
        policy: Policy,
        guards: Mapping[str, Guard],
        engines: Mapping[str, E],
        driver: Driver[E],
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._policy = policy
        self._engines = engines
        self._driver: Driver[Any] = driver
        self._clock = clock
        links: list[_Link] = []
        later_s = 0.0
        memories: tuple[Remembers, ...] = ()
        for later, name in enumerate(reversed(policy.chain)):
            own = policy.engines[name]
            retry = Retry(own.retry, clock.now, chance, driver.sleep)
            fair_s = own.timeouts.whole_s or (policy.deadline_s or math.inf) - later_s
            links.insert(0, _Link(guards[name], retry, later_s, later, fair_s, memories))
            later_s += own.reserve_s
            engine: Any = engines[name]
            if hasattr(engine, "remember"):
                memories = (engine, *memories)
        self._steps = tuple(zip_longest(links, links[1:]))

    async def complete(self, request: Request) -> Response:
        """Answer a request."""
        link, response = await self._through(self._call(request), _complete)
        for memory in link.memories:
            memory.remember(request, response)
        return replace(response, provider_data=self._signed(response.provider_data, link))

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        """Answer a request piece by piece; engines are changed before the first token only."""
        link, stream = await self._through(self._call(request), _open)
        kept: list[StreamEvent] = []
        try:
            while (event := await stream.next()) is not None:
                if link.memories:
                    kept.append(event)
                if isinstance(event, StreamEndEvent):
                    stream.attempt.succeeded()
                    for memory in link.memories:
                        memory.remember(request, materialize_response(iter(kept), request))
                    event = replace(event, provider_data=self._signed(event.provider_data, link))
                yield event
        finally:
            await stream.close()

    def _call(self, request: Request) -> Call:
        policy = self._policy
        own = math.inf if policy.deadline_s is None else self._clock.now() + policy.deadline_s
        attempts = math.inf if policy.attempts is None else policy.attempts
        return Call(request, min(own, due()), attempts)

    async def _through(self, call: Call, ask: _Ask[R]) -> tuple[_Link, R]:
        failures: dict[str, Exception] = {}
        for link, following in self._steps:
            guard = link.guard
            engine = self._engines[guard.name]
            try:
                return link, await link.retry(ask(guard), link.visit(call), self._driver, engine)
            except LM15Error as error:
                failures[guard.name] = error
                if following is None or not another_may_answer(error):
                    break
                emit(FallbackUsed(guard.name, following.guard.name, kind_of(error)))
        first, *others = failures.values()
        if others:
            raise EveryEngineFailed(failures) from others[-1]
        raise first

    def _signed(self, provider_data: Any, link: _Link) -> dict[str, Any]:
        note(link.guard.name)
        if link.guard.name != self._policy.primary:
            answered_in_place.get()()
        return {**(provider_data or {}), ANSWERED_BY: link.guard.name}
