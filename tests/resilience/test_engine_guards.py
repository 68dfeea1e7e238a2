"""Calls that are not made: the circuit is open, the engine full, or the time too short."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dspy_toolkit.contract import ContextLengthError, InvalidRequestError, ServerError
from dspy_toolkit.events import BreakerChanged, CallShed, Event, FallbackUsed, GuardSampled
from dspy_toolkit.resilience import (
    BreakerPolicy,
    BulkheadPolicy,
    EnginePolicy,
    RetryPolicy,
    SheddingPolicy,
    answered_by,
    within,
)
from dspy_toolkit.resilience.errors import CircuitOpen, DeadlineUnreachable, Full, QueueTimeout
from tests.resilience.conftest import Bench, Way, ask

MakeBench = Callable[..., Bench]
ONCE = RetryPolicy(attempts=1)
DOWN = ServerError("down")


def test_an_engine_that_keeps_failing_is_left_alone_and_tried_again_later(
    bench: MakeBench, way: Way, events: list[Event]
) -> None:
    breaker = BreakerPolicy(window_calls=4, minimum_calls=4, open_s=30.0, probes=1)
    made = bench(
        local=EnginePolicy(fallback="spare", breaker=breaker, retry=ONCE), spare=EnginePolicy()
    )
    engine = made.build()
    made.engines["local"].fail_next(DOWN, times=4)
    by = [answered_by(way.complete(engine, ask())) for _ in range(10)]
    calls_then = made.calls()["local"]
    made.clock.advance(30.0)
    by += [answered_by(way.complete(engine, ask())) for _ in range(2)]

    assert by == ["spare"] * 10 + ["local"] * 2
    assert calls_then == 4
    assert [event.after for event in events if isinstance(event, BreakerChanged)] == [
        "open",
        "half-open",
        "closed",
    ]
    assert CallShed("local", "circuit_open") in events
    assert FallbackUsed("local", "spare", "circuit_open") in events


def test_an_open_circuit_tells_what_the_engine_last_failed_with(bench: MakeBench, way: Way) -> None:
    breaker = BreakerPolicy(window_calls=2, minimum_calls=2)
    made = bench(local=EnginePolicy(breaker=breaker, retry=RetryPolicy(attempts=5)))
    made.engines["local"].fail_next(DOWN, times=2)

    with pytest.raises(CircuitOpen) as error:
        way.complete(made.build(), ask())
    assert error.value.__cause__ is DOWN
    assert error.value.retry_after is not None


@pytest.mark.parametrize("error", [InvalidRequestError("bad"), ContextLengthError("long")])
def test_what_the_request_is_to_blame_for_does_not_open_the_circuit(
    bench: MakeBench, way: Way, error: Exception
) -> None:
    breaker = BreakerPolicy(window_calls=2, minimum_calls=1)
    made = bench(local=EnginePolicy(breaker=breaker))
    engine = made.build()
    made.engines["local"].fail_next(error, times=4)
    for _ in range(4):
        with pytest.raises(type(error)):
            way.complete(engine, ask())

    assert engine.breakers["local"].view().tally.calls == 0


def test_a_call_without_hope_is_refused_before_it_starts(
    bench: MakeBench, way: Way, events: list[Event]
) -> None:
    shedding = SheddingPolicy(minimum_calls=5, window_s=60.0)
    made = bench(local=EnginePolicy(shedding=shedding, retry=ONCE))
    engine = made.build(deadline_s=30.0)
    made.engines["local"].slow_next(4.0, times=5)
    for _ in range(5):
        way.complete(engine, ask())
    with (
        within(3.0, made.clock.now),
        pytest.raises(DeadlineUnreachable, match="takes about 4 s now and 3 s are left"),
    ):
        way.complete(engine, ask())
    refused = made.calls()["local"]
    made.clock.advance(61.0)
    with within(3.0, made.clock.now):
        way.complete(engine, ask())

    assert refused == 5
    assert made.calls()["local"] == 6
    assert CallShed("local", "deadline") in events


def test_a_full_engine_refuses_at_once_and_its_fallback_answers(
    bench: MakeBench, way: Way, events: list[Event]
) -> None:
    full = BulkheadPolicy(max_concurrent=1, max_queued=0)
    made = bench(local=EnginePolicy(bulkhead=full, fallback="spare"), spare=EnginePolicy())
    engine = made.build()
    held = engine.stream(ask())
    next(held)
    response = way.complete(engine, ask())
    held.close()

    assert answered_by(response) == "spare"
    assert CallShed("local", "full") in events
    assert answered_by(way.complete(engine, ask())) == "local"


def test_a_full_engine_without_fallback_says_so(bench: MakeBench, way: Way) -> None:
    full = BulkheadPolicy(max_concurrent=1, max_queued=0)
    made = bench(local=EnginePolicy(bulkhead=full))
    engine = made.build()
    held = engine.stream(ask())
    next(held)

    with pytest.raises(Full, match="1 calls running, 0 waiting") as error:
        way.complete(engine, ask())
    assert error.value.retryable
    held.close()


def test_waiting_for_a_place_ends_with_the_deadline(bench: MakeBench, way: Way) -> None:
    narrow = BulkheadPolicy(max_concurrent=1, max_queued=1)
    made = bench(local=EnginePolicy(bulkhead=narrow))
    engine = made.build(deadline_s=5.0)
    held = engine.stream(ask())
    next(held)

    with pytest.raises(QueueTimeout, match="no free place for 5 s"):
        way.complete(engine, ask())
    held.close()
    assert way.complete(engine, ask()).text == "answer of local"


def test_it_tells_how_its_guards_stand_and_whether_anyone_would_answer(bench: MakeBench) -> None:
    alone = bench(local=EnginePolicy(breaker=BreakerPolicy(open_s=30.0))).build()

    assert alone.samples() == [GuardSampled("local", 0, 0, "closed")]
    assert alone.alive

    alone.breakers["local"].open()

    assert alone.samples() == [GuardSampled("local", 0, 0, "open")]
    assert not alone.alive
