"""The policy's promises, each for threads and for coroutines, on a clock that nobody waits for."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
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
    StreamDeltaEvent,
    StreamEvent,
    StreamStartEvent,
    TextDelta,
    TimeoutError,
    TransportError,
)
from dspy_toolkit.errors import InvalidInput, ToolkitError
from dspy_toolkit.events import (
    AttemptFinished,
    BreakerChanged,
    CallRetried,
    CallShed,
    CallTimedOut,
    Event,
    FallbackUsed,
    GuardSampled,
)
from dspy_toolkit.resilience import (
    BreakerPolicy,
    BulkheadPolicy,
    EnginePolicy,
    FixedAnswer,
    ManualClock,
    Policy,
    ResilientEngine,
    RetryPolicy,
    SheddingPolicy,
    TimeoutPolicy,
    WouldHang,
    answered_by,
    within,
)
from dspy_toolkit.resilience.errors import (
    BrokenEngine,
    CallTimeout,
    CircuitOpen,
    DeadlineUnreachable,
    EveryEngineFailed,
    Full,
    QueueTimeout,
    RubbishAnswer,
)
from dspy_toolkit.resilience.faulty import GARBAGE
from tests.resilience.conftest import Bench, Way, ask, kinds, text_of

MakeBench = Callable[..., Bench]
ONCE = RetryPolicy(attempts=1)
DOWN = ServerError("down")


def test_when_all_is_well_the_answer_says_who_gave_it(bench: MakeBench, way: Way) -> None:
    made = bench(local=EnginePolicy())
    response = way.complete(made.build(), ask())

    assert response.text == "answer of local"
    assert answered_by(response) == "local"
    assert answered_by(FixedAnswer("x").complete(ask())) is None


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


@pytest.mark.parametrize(
    ("engines", "message"),
    [
        ({}, "names an engine 'local' and none is given"),
        ({"local": FixedAnswer(""), "spare": FixedAnswer("")}, "does not name it"),
        ({"locl": FixedAnswer("")}, "did you mean 'locl'"),
    ],
)
def test_engines_and_policy_must_have_the_same_names(engines: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        ResilientEngine(Policy("local", {"local": EnginePolicy()}), engines)


def test_an_engine_without_twin_serves_threads_only(clock: ManualClock) -> None:
    class Lonely:
        def complete(self, request: Request) -> Response:
            return FixedAnswer("alone").answer(request)

    lonely: Any = Lonely()
    engine = ResilientEngine(Policy("a", {"a": EnginePolicy()}), {"a": lonely}, clock=clock)

    assert engine.complete(ask()).text == "alone"
    with pytest.raises(InvalidInput, match=r"'a' \(Lonely\) has no async_twin"):
        _ = engine.async_twin


def test_state_leads_back_to_the_same_engine() -> None:
    policy = Policy(
        "a", {"a": EnginePolicy(fallback="b"), "b": EnginePolicy(breaker=None)}, deadline_s=9.0
    )
    engine = ResilientEngine(policy, {"a": FixedAnswer("one"), "b": FixedAnswer("two", "m2")})
    state = json.loads(json.dumps(engine.dump_state()))
    again = ResilientEngine.load_state(state)

    assert again.policy == policy
    assert again.complete(ask()).text == "one"
    assert again.dump_state() == state


def test_an_engine_that_cannot_be_saved_is_named(bench: MakeBench) -> None:
    engine = bench(local=EnginePolicy()).build()

    with pytest.raises(InvalidInput, match=r"'local' \(FaultyEngine\) cannot be saved"):
        engine.dump_state()


def test_closing_closes_every_engine_even_if_one_fails(clock: ManualClock) -> None:
    closed: list[str] = []

    class Closing(FixedAnswer):
        def close(self) -> None:
            closed.append(str(self._text))
            if self._text == "b":
                raise OSError("stuck")

    engine = ResilientEngine(
        Policy("a", {"a": EnginePolicy(fallback="b"), "b": EnginePolicy()}),
        {"a": Closing("a"), "b": Closing("b")},
        clock=clock,
    )

    with pytest.raises(OSError, match="stuck"):
        engine.close()
    assert sorted(closed) == ["a", "b"]


def test_it_tells_how_its_guards_stand_and_whether_anyone_would_answer(
    bench: MakeBench,
) -> None:
    alone = bench(local=EnginePolicy(breaker=BreakerPolicy(open_s=30.0))).build()

    assert alone.samples() == [GuardSampled("local", 0, 0, "closed")]
    assert alone.alive

    alone.breakers["local"].open()

    assert alone.samples() == [GuardSampled("local", 0, 0, "open")]
    assert not alone.alive
