"""Errors that are tried again, for how long, and those that are given back at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from dspy_toolkit.contract import (
    AuthError,
    ContextLengthError,
    InvalidRequestError,
    RateLimitError,
    Request,
    Response,
    ServerError,
    TimeoutError,
    TransportError,
)
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.events import CallRetried, Event
from dspy_toolkit.resilience import (
    EnginePolicy,
    FixedAnswer,
    ManualClock,
    Policy,
    ResilientEngine,
    RetryPolicy,
    answered_by,
)
from dspy_toolkit.resilience.errors import BrokenEngine, EveryEngineFailed, RubbishAnswer
from dspy_toolkit.resilience.faulty import GARBAGE
from tests.resilience.conftest import Bench, Way, ask, kinds

MakeBench = Callable[..., Bench]
ONCE = RetryPolicy(attempts=1)
DOWN = ServerError("down")


@pytest.mark.parametrize(
    "error", [DOWN, RateLimitError("slow down"), TimeoutError("slow"), TransportError("gone")]
)
def test_an_error_that_may_pass_is_tried_again(
    bench: MakeBench, way: Way, events: list[Event], error: Exception
) -> None:
    made = bench(local=EnginePolicy(retry=RetryPolicy(attempts=3)))
    made.engines["local"].fail_next(error, times=2)

    assert way.complete(made.build(), ask()).text == "answer of local"
    assert made.calls() == {"local": 3}
    assert len(kinds(events, CallRetried)) == 2


@pytest.mark.parametrize("error", [AuthError("no"), ContextLengthError("long"), ValueError("bug")])
def test_an_error_that_will_not_pass_is_not_tried_again(
    bench: MakeBench, way: Way, error: Exception
) -> None:
    made = bench(local=EnginePolicy(), spare=EnginePolicy())
    made.policies["local"] = EnginePolicy(fallback="spare")
    made.engines["local"].fail_next(error)

    assert answered_by(way.complete(made.build(), ask())) == "spare"
    assert made.calls() == {"local": 1, "spare": 1}


def test_a_request_that_is_wrong_for_every_engine_is_given_back(bench: MakeBench, way: Way) -> None:
    made = bench(local=EnginePolicy(fallback="spare"), spare=EnginePolicy())
    made.engines["local"].fail_next(InvalidRequestError("no such role"))

    with pytest.raises(InvalidRequestError, match="no such role"):
        way.complete(made.build(), ask())
    assert made.calls() == {"local": 1, "spare": 0}


def test_the_last_error_of_one_engine_comes_back_as_it_is(bench: MakeBench, way: Way) -> None:
    made = bench(local=EnginePolicy())
    made.engines["local"].fail_next(DOWN, times=3)

    with pytest.raises(ServerError) as error:
        way.complete(made.build(), ask())
    assert error.value is DOWN


def test_when_no_engine_answers_every_reason_is_told(bench: MakeBench, way: Way) -> None:
    made = bench(local=EnginePolicy(fallback="spare"), spare=EnginePolicy(retry=ONCE))
    made.engines["local"].fail_next(DOWN, times=3)
    made.engines["spare"].fail_next(AuthError("wrong key"))

    with pytest.raises(EveryEngineFailed, match="local: ServerError: down; spare: AuthError") as e:
        way.complete(made.build(), ask())
    assert "\n" not in str(e.value)
    assert list(e.value.errors) == ["local", "spare"]
    assert e.value.retryable
    assert isinstance(e.value, ToolkitError)


def test_what_an_engine_may_not_raise_becomes_an_error_of_the_contract(
    bench: MakeBench, way: Way
) -> None:
    made = bench(local=EnginePolicy())
    made.engines["local"].fail_next(RuntimeError("metal: out of memory\nmore"))

    with pytest.raises(BrokenEngine, match=r"RuntimeError: metal: out of memory$") as error:
        way.complete(made.build(), ask())
    assert isinstance(error.value.__cause__, RuntimeError)


def test_what_is_no_response_is_a_broken_engine(clock: ManualClock, way: Way) -> None:
    class Wrong(FixedAnswer):
        def answer(self, request: Request) -> Any:
            return "text"

    engine = ResilientEngine(Policy("a", {"a": EnginePolicy()}), {"a": Wrong("")}, clock=clock)

    with pytest.raises(BrokenEngine, match="a str, not a Response"):
        way.complete(engine, ask())


def test_waits_double_up_to_the_longest_and_honour_what_the_engine_asks_for(
    bench: MakeBench, way: Way, events: list[Event]
) -> None:
    retry = RetryPolicy(attempts=6, first_wait_s=1.0, max_wait_s=4.0, jitter=0.0)
    made = bench(local=EnginePolicy(retry=retry, breaker=None))
    made.engines["local"].fail_next(DOWN, times=4)
    made.engines["local"].fail_next(RateLimitError("later", retry_after=3.5))
    started = made.clock.now()
    engine = made.build()
    made.engines["local"].fail_next(RateLimitError("much later", retry_after=60))
    with pytest.raises(RateLimitError, match="much later"):
        way.complete(engine, ask())

    waits = [event.wait_s for event in events if isinstance(event, CallRetried)]
    assert waits == [1.0, 2.0, 4.0, 4.0, 4.0]
    assert made.clock.now() - started == sum(waits)


def test_a_longer_wait_than_allowed_is_not_waited(bench: MakeBench, way: Way) -> None:
    made = bench(local=EnginePolicy(fallback="spare"), spare=EnginePolicy())
    made.engines["local"].fail_next(RateLimitError("tomorrow", retry_after=86400))
    started = made.clock.now()

    assert answered_by(way.complete(made.build(), ask())) == "spare"
    assert made.clock.now() == started


def test_jitter_is_drawn_from_the_generator_passed_in(bench: MakeBench, way: Way) -> None:
    def waits(seed: int) -> list[float]:
        made = bench(local=EnginePolicy())
        made.engines["local"].fail_next(DOWN, times=2)
        started = made.clock.now()
        way.complete(made.build(chance=random.Random(seed)), ask())
        return [round(made.clock.now() - started, 9)]

    assert waits(1) == waits(1)
    assert waits(1) != waits(2)


@pytest.mark.parametrize(("attempts", "calls"), [(None, (3, 3, 3)), (6, (3, 2, 1)), (3, (1, 1, 1))])
def test_the_budget_of_attempts_holds_over_all_engines_and_starves_none(
    bench: MakeBench, way: Way, attempts: int | None, calls: tuple[int, ...]
) -> None:
    made = bench(
        a=EnginePolicy(fallback="b"), b=EnginePolicy(fallback="c"), c=EnginePolicy(fallback=None)
    )
    for engine in made.engines.values():
        engine.fail_next(DOWN, times=9)

    with pytest.raises(EveryEngineFailed):
        way.complete(made.build(attempts=attempts), ask())
    assert tuple(made.calls().values()) == calls


def test_rubbish_is_not_accepted_where_somebody_looks(bench: MakeBench, way: Way) -> None:
    def accept(request: Request, response: Response) -> bool:
        return GARBAGE not in (response.text or "")

    made = bench(local=EnginePolicy(retry=RetryPolicy(attempts=2)))
    engine = made.build(accept=accept)
    made.engines["local"].garbage_next()
    good = way.complete(engine, ask())
    made.engines["local"].garbage_next(times=2)

    assert good.text == "answer of local"
    with pytest.raises(RubbishAnswer):
        way.complete(engine, ask())


def test_a_judge_of_answers_that_fails_is_not_the_engines_fault(bench: MakeBench, way: Way) -> None:
    def accept(request: Request, response: Response) -> bool:
        raise KeyError("judge")

    engine = bench(local=EnginePolicy()).build(accept=accept)

    with pytest.raises(KeyError, match="judge"):
        way.complete(engine, ask())
    assert engine.breakers["local"].view().tally.calls == 0
