from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dspy_toolkit.contract import Message, Request, Response, StreamEvent
from dspy_toolkit.events import Event, subscribed
from dspy_toolkit.resilience import (
    EnginePolicy,
    FaultyEngine,
    FixedAnswer,
    ManualClock,
    Opening,
    Policy,
    ResilientEngine,
    SupervisedEngine,
    SupervisionPolicy,
)
from tests.resilience.puppet import ask as question
from tests.resilience.supervising import QUICK, Start

PATIENCE_S = 20.0


class Threads:
    """Calls an engine as threads do."""

    def complete(self, engine: Any, request: Request) -> Response:
        return engine.complete(request)

    def stream(self, engine: Any, request: Request, heard: list[StreamEvent]) -> None:
        for event in engine.stream(request):
            heard.append(event)


class Coroutines:
    """Calls an engine as coroutines do."""

    def complete(self, engine: Any, request: Request) -> Response:
        return self._run(engine.async_twin.complete(request))

    def stream(self, engine: Any, request: Request, heard: list[StreamEvent]) -> None:
        async def read() -> None:
            async for event in engine.async_twin.stream(request):
                heard.append(event)

        self._run(read())

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


Way = Threads | Coroutines


@pytest.fixture(params=[Threads, Coroutines], ids=["threads", "coroutines"])
def way(request: pytest.FixtureRequest) -> Way:
    made: Way = request.param()
    return made


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def events() -> Iterator[list[Event]]:
    heard: list[Event] = []
    with subscribed(heard.append):
        yield heard


def ask(text: str = "question") -> Request:
    return Request(model="m", messages=(Message.user(text),))


def text_of(heard: list[StreamEvent]) -> str:
    return "".join(getattr(getattr(event, "delta", None), "text", "") for event in heard)


def kinds(events: list[Event], *kinds: type) -> list[Event]:
    return [event for event in events if isinstance(event, kinds)]


class Bench:
    """A guarded engine over faulty ones on a manual clock."""

    def __init__(self, clock: ManualClock, **policies: EnginePolicy) -> None:
        self.clock = clock
        self.policies = policies
        self.engines = {
            name: FaultyEngine(FixedAnswer(f"answer of {name}"), clock) for name in policies
        }

    def build(self, **settings: Any) -> ResilientEngine:
        keywords = ("storage", "listeners", "accept", "chance")
        extras = {key: settings.pop(key) for key in keywords if key in settings}
        policy = Policy(primary=next(iter(self.policies)), engines=self.policies, **settings)
        extras.setdefault("chance", random.Random(0))
        return ResilientEngine(policy, self.engines, clock=self.clock, **extras)

    def calls(self) -> dict[str, int]:
        return {name: engine.calls for name, engine in self.engines.items()}


@pytest.fixture
def bench(clock: ManualClock) -> Callable[..., Bench]:
    return lambda **policies: Bench(clock, **policies)


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def started(engine: str = "puppet", **changes: Any) -> SupervisedEngine:
            policy = SupervisionPolicy(**{**vars(QUICK), **changes})
            opened = SupervisedEngine(Opening(f"tests.resilience.puppet:{engine}"), policy)
            stack.callback(opened.close)
            return opened

        yield started


@pytest.fixture(scope="package")
def shared() -> Iterator[SupervisedEngine]:
    """One engine that the tests harm in turn; a new one for each would cost a second each."""
    policy = SupervisionPolicy(**{**vars(QUICK), "crashes": 1000})
    engine = SupervisedEngine(Opening("tests.resilience.puppet:puppet"), policy)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared: SupervisedEngine) -> SupervisedEngine:
    shared.complete(question("ready?"))
    return shared
