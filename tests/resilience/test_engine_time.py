"""Limits of time and deadlines, on a clock that nobody waits for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dspy_toolkit.contract import ServerError
from dspy_toolkit.events import CallTimedOut, Event
from dspy_toolkit.resilience import (
    BreakerPolicy,
    EnginePolicy,
    RetryPolicy,
    TimeoutPolicy,
    WouldHang,
    answered_by,
    within,
)
from dspy_toolkit.resilience.errors import CallTimeout, EveryEngineFailed
from tests.resilience.conftest import Bench, Way, ask, kinds

MakeBench = Callable[..., Bench]
ONCE = RetryPolicy(attempts=1)
DOWN = ServerError("down")


def test_no_second_attempt_is_made_that_the_deadline_leaves_no_time_for(
    bench: MakeBench, way: Way
) -> None:
    retry = RetryPolicy(attempts=5, first_wait_s=2.0, jitter=0.0)
    made = bench(local=EnginePolicy(retry=retry))
    made.engines["local"].fail_next(DOWN, times=5)
    started = made.clock.now()

    with pytest.raises(ServerError):
        way.complete(made.build(deadline_s=5.0), ask())
    assert made.calls() == {"local": 2}
    assert made.clock.now() - started == 2.0


def test_an_answer_that_takes_too_long_is_given_up_on(
    bench: MakeBench, way: Way, events: list[Event]
) -> None:
    made = bench(local=EnginePolicy(timeouts=TimeoutPolicy(whole_s=3.0), retry=ONCE))
    made.engines["local"].slow_next(4.0)
    started = made.clock.now()

    with pytest.raises(CallTimeout, match=r"'local' gave no whole answer within 3 s") as error:
        way.complete(made.build(), ask())
    assert error.value.limit == "whole"
    assert made.clock.now() - started == 3.0
    assert kinds(events, CallTimedOut) == [CallTimedOut("local", "whole", 3.0)]


@pytest.mark.parametrize(
    ("after", "limit", "gone_s"), [(0, "first_token", 2.0), (2, "between_tokens", 1.0)]
)
def test_with_limits_on_tokens_a_whole_answer_is_watched_by_its_tokens(
    bench: MakeBench, way: Way, after: int, limit: str, gone_s: float
) -> None:
    timeouts = TimeoutPolicy(first_token_s=2.0, between_tokens_s=1.0, whole_s=60.0)
    made = bench(local=EnginePolicy(timeouts=timeouts, retry=ONCE))
    made.engines["local"].stall(after=after)
    started = made.clock.now()

    with pytest.raises(CallTimeout) as error:
        way.complete(made.build(), ask())
    assert error.value.limit == limit
    assert made.clock.now() - started == gone_s


def test_put_together_from_its_tokens_an_answer_is_the_same(bench: MakeBench, way: Way) -> None:
    plain = bench(local=EnginePolicy())
    watched = bench(local=EnginePolicy(timeouts=TimeoutPolicy(first_token_s=5.0)))

    assert way.complete(watched.build(), ask()) == way.complete(plain.build(), ask())


def test_a_call_that_would_hang_fails_the_test_instead(bench: MakeBench, way: Way) -> None:
    made = bench(local=EnginePolicy(fallback="spare"), spare=EnginePolicy())
    made.engines["local"].stall()

    with pytest.raises(WouldHang, match="no timeout or deadline"):
        way.complete(made.build(), ask())


def test_a_fallback_keeps_its_time_of_the_deadline(bench: MakeBench, way: Way) -> None:
    made = bench(local=EnginePolicy(fallback="spare"), spare=EnginePolicy(reserve_s=2.0))
    made.engines["local"].stall()
    made.engines["spare"].slow_next(1.5)
    started = made.clock.now()
    response = way.complete(made.build(deadline_s=10.0), ask())

    assert answered_by(response) == "spare"
    assert made.clock.now() - started == 9.5


def test_nothing_outlasts_the_deadline(bench: MakeBench, way: Way) -> None:
    made = bench(local=EnginePolicy(fallback="spare"), spare=EnginePolicy())
    for engine in made.engines.values():
        engine.stall(times=9)
    started = made.clock.now()

    with pytest.raises(EveryEngineFailed):
        way.complete(made.build(deadline_s=10.0), ask())
    assert made.clock.now() - started == 10.0


def test_a_callers_own_deadline_holds_for_all_its_calls(bench: MakeBench, way: Way) -> None:
    made = bench(local=EnginePolicy(retry=ONCE))
    engine = made.build(deadline_s=60.0)
    made.engines["local"].slow_next(2.0)
    made.engines["local"].stall()
    started = made.clock.now()

    with within(5.0, made.clock.now), within(50.0, made.clock.now):
        way.complete(engine, ask())
        with pytest.raises(CallTimeout, match="deadline"):
            way.complete(engine, ask())
    assert made.clock.now() - started == 5.0
    assert way.complete(engine, ask()).text == "answer of local"


def test_callers_in_a_hurry_do_not_open_the_circuit(bench: MakeBench, way: Way) -> None:
    breaker = BreakerPolicy(window_calls=2, minimum_calls=2)
    made = bench(local=EnginePolicy(retry=ONCE, breaker=breaker))
    engine = made.build(deadline_s=60.0)
    made.engines["local"].stall(times=6)
    for seconds in (0.1, 0.1, 0.1, 0.1):
        with within(seconds, made.clock.now), pytest.raises(CallTimeout):
            way.complete(engine, ask())
    patient = engine.breakers["local"].view().state
    for _ in range(2):
        with pytest.raises(CallTimeout):
            way.complete(engine, ask())

    assert patient == "closed"
    assert engine.breakers["local"].view().state == "open"
