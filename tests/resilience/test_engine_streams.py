"""Streams that break, stall or are left, and calls that are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dspy_toolkit.contract import (
    Request,
    Response,
    StreamDeltaEvent,
    StreamEvent,
    StreamStartEvent,
    TextDelta,
    TransportError,
)
from dspy_toolkit.events import AttemptFinished, Event
from dspy_toolkit.resilience import (
    BulkheadPolicy,
    EnginePolicy,
    FixedAnswer,
    ManualClock,
    Policy,
    ResilientEngine,
    RetryPolicy,
    TimeoutPolicy,
)
from dspy_toolkit.resilience.errors import BrokenEngine, CallTimeout
from tests.resilience.conftest import Bench, Way, ask, text_of

MakeBench = Callable[..., Bench]
ONCE = RetryPolicy(attempts=1)


def test_before_its_first_token_a_stream_changes_engines(bench: MakeBench, way: Way) -> None:
    made = bench(local=EnginePolicy(fallback="spare"), spare=EnginePolicy())
    made.engines["local"].cut_stream_after(1, times=3)
    heard: list[StreamEvent] = []
    way.stream(made.build(), ask(), heard)

    assert [event.type for event in heard] == ["start", "delta", "end"]
    assert text_of(heard) == "answer of spare"
    assert heard[-1].provider_data["answered_by"] == "spare"
    assert made.calls() == {"local": 3, "spare": 1}


def test_after_its_first_token_a_stream_fails_for_good(
    bench: MakeBench, way: Way, events: list[Event]
) -> None:
    made = bench(local=EnginePolicy(fallback="spare"), spare=EnginePolicy())
    made.engines["local"].cut_stream_after(2)
    heard: list[StreamEvent] = []

    with pytest.raises(TransportError):
        way.stream(made.build(), ask(), heard)
    assert text_of(heard) == "answer of local"
    assert made.calls() == {"local": 1, "spare": 0}
    assert [event.error for event in events if isinstance(event, AttemptFinished)] == ["transport"]


def test_a_stream_that_stalls_is_given_up_on(bench: MakeBench, way: Way) -> None:
    timeouts = TimeoutPolicy(first_token_s=2.0, between_tokens_s=1.0)
    made = bench(local=EnginePolicy(timeouts=timeouts))
    made.engines["local"].stall(after=2)
    heard: list[StreamEvent] = []

    with pytest.raises(CallTimeout, match="no further token within 1 s"):
        way.stream(made.build(), ask(), heard)
    assert text_of(heard) == "answer of local"


def test_empty_pieces_are_no_tokens(clock: ManualClock) -> None:
    class Undead(FixedAnswer):
        def stream(self, request: Request) -> Iterator[StreamEvent]:
            yield StreamStartEvent(id="x", model="m")
            for _ in range(50):
                clock.advance(0.5)
                yield StreamDeltaEvent(delta=TextDelta(text=""))

    policy = EnginePolicy(timeouts=TimeoutPolicy(first_token_s=2.0), retry=ONCE)
    engine = ResilientEngine(Policy("a", {"a": policy}), {"a": Undead("")}, clock=clock)
    started = clock.now()

    with pytest.raises(CallTimeout, match="no first token"):
        list(engine.stream(ask()))
    assert clock.now() - started <= 2.5


def test_a_slow_reader_is_not_the_engines_fault(bench: MakeBench) -> None:
    timeouts = TimeoutPolicy(first_token_s=2.0, between_tokens_s=1.0, whole_s=5.0)
    made = bench(local=EnginePolicy(timeouts=timeouts))
    engine = made.build()
    read = []
    for event in engine.stream(ask()):
        made.clock.advance(100.0)
        read.append(event)

    assert text_of(read) == "answer of local"
    assert engine.breakers["local"].view().tally.slow == 0


def test_an_engine_that_cancels_itself_does_not_cancel_its_caller() -> None:
    class Confused(FixedAnswer):
        @property
        def async_twin(self) -> Any:
            return self

        async def complete(self, request: Request) -> Response:
            raise asyncio.CancelledError

    policy = Policy("a", {"a": EnginePolicy(retry=ONCE)}, deadline_s=60.0)
    engine = ResilientEngine(policy, {"a": Confused("")})

    with pytest.raises(BrokenEngine, match="cancelled itself"):
        asyncio.run(engine.async_twin.complete(ask()))


def test_a_stream_left_early_counts_as_nothing_and_frees_its_place(bench: MakeBench) -> None:
    narrow = BulkheadPolicy(max_concurrent=1, max_queued=0)
    engine = bench(local=EnginePolicy(bulkhead=narrow)).build()
    stream = engine.stream(ask())
    next(stream)
    stream.close()

    assert engine.breakers["local"].view().tally.calls == 0
    assert engine.complete(ask()).text == "answer of local"


@pytest.mark.parametrize("turns", range(5))
def test_a_cancelled_call_counts_as_nothing_and_frees_its_place(turns: int) -> None:
    class Stuck(FixedAnswer):
        @property
        def async_twin(self) -> Any:
            return self

        async def complete(self, request: Request) -> Response:
            await asyncio.Event().wait()

    narrow = EnginePolicy(bulkhead=BulkheadPolicy(max_concurrent=1), retry=ONCE)
    engine = ResilientEngine(Policy("a", {"a": narrow}, deadline_s=60.0), {"a": Stuck("")})

    async def cancel() -> None:
        task = asyncio.ensure_future(engine.async_twin.complete(ask()))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(cancel())

    assert engine.breakers["a"].view().tally.calls == 0
    assert engine._guards["a"].gate.running == 0
