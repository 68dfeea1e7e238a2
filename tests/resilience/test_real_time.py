"""Giving up on calls that do not end, with real threads, real tasks and limits of milliseconds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dspy_toolkit.contract import (
    Request,
    Response,
    ServerError,
    StreamDeltaEvent,
    StreamEvent,
    StreamStartEvent,
    TextDelta,
    gives_up_at,
)
from dspy_toolkit.events import AttemptFinished, Event, LateAnswerDropped, subscribed
from dspy_toolkit.resilience import (
    BulkheadPolicy,
    EnginePolicy,
    FixedAnswer,
    Policy,
    RemoteEngine,
    ResilientEngine,
    RetryPolicy,
    TimeoutPolicy,
)
from dspy_toolkit.resilience.errors import CallTimeout, CircuitOpen, Full
from dspy_toolkit.resilience.workers import Workers
from tests.resilience.conftest import PATIENCE_S, Way, ask
from tests.resilience.laboratory.server import FaultServer

LIMIT_S = 0.03
# What a busy machine may add.
SLACK_S = 2.0
ONE = BulkheadPolicy(max_concurrent=1, max_queued=0)


class Stuck:
    """An engine whose calls end when they are let go, and not before, even when cancelled."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.seen_due: list[float] = []
        self.closed = threading.Event()
        self.guarded_by: list[ResilientEngine] = []

    def complete(self, request: Request) -> Response:
        self.seen_due.append(gives_up_at.get())
        self.let_go.wait(PATIENCE_S)
        return FixedAnswer("late").answer(request)

    def stream(self, request: Request) -> Iterator[StreamEvent]:
        try:
            yield StreamStartEvent(id="x", model="m")
            yield StreamDeltaEvent(delta=TextDelta(text="first "))
            self.let_go.wait(PATIENCE_S)
            yield StreamDeltaEvent(delta=TextDelta(text="second"))
        finally:
            self.closed.set()

    def close(self) -> None:
        self.let_go.set()

    @property
    def async_twin(self) -> StuckTwin:
        return StuckTwin(self)


class StuckTwin:
    def __init__(self, stuck: Stuck) -> None:
        self._stuck = stuck

    async def complete(self, request: Request) -> Response:
        await self._stubborn()
        return FixedAnswer("late").answer(request)

    async def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        try:
            yield StreamStartEvent(id="x", model="m")
            yield StreamDeltaEvent(delta=TextDelta(text="first "))
            await self._stubborn()
        finally:
            self._stuck.closed.set()

    async def aclose(self) -> None:
        self._stuck.let_go.set()

    async def _stubborn(self) -> None:
        while not self._stuck.let_go.is_set():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                pass


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    made = Stuck()
    yield made
    made.let_go.set()

    # A call that ends later would be heard by the next test.
    assert until(lambda: all(running(engine) == 0 for engine in made.guarded_by))


def guarded(stuck: Stuck, **timeouts: float) -> ResilientEngine:
    policy = EnginePolicy(
        bulkhead=ONE, timeouts=TimeoutPolicy(**timeouts), retry=RetryPolicy(attempts=1)
    )
    engine = ResilientEngine(Policy("local", {"local": policy}), {"local": stuck})
    stuck.guarded_by.append(engine)
    return engine


def running(engine: ResilientEngine) -> int:
    return sum(guard.gate.running for guard in engine._guards.values())


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    turn = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        turn.wait(0.001)
    return True


def test_a_thread_is_back_on_time_and_the_place_is_free_when_the_call_has_really_ended(
    stuck: Stuck, events: list[Event]
) -> None:
    engine = guarded(stuck, whole_s=LIMIT_S)
    started = time.monotonic()
    with pytest.raises(CallTimeout):
        engine.complete(ask())
    gone_s = time.monotonic() - started
    with pytest.raises(Full):
        engine.complete(ask())
    stuck.let_go.set()

    assert LIMIT_S <= gone_s < LIMIT_S + SLACK_S
    assert until(lambda: any(isinstance(event, LateAnswerDropped) for event in events))
    assert running(engine) == 0
    assert [event.error for event in events if isinstance(event, AttemptFinished)] == ["timeout"]
    assert engine.complete(ask()).text == "late"


def test_an_engine_may_know_when_nobody_waits_any_more(stuck: Stuck) -> None:
    engine = guarded(stuck, whole_s=LIMIT_S)
    before = time.monotonic()
    with pytest.raises(CallTimeout):
        engine.complete(ask())

    # A busy machine may start the call only after its caller has gone.
    assert until(lambda: bool(stuck.seen_due))
    assert before + LIMIT_S <= stuck.seen_due[0] <= time.monotonic()


def test_a_coroutine_is_back_on_time_though_the_engine_ignores_being_cancelled(
    stuck: Stuck, events: list[Event]
) -> None:
    engine = guarded(stuck, whole_s=LIMIT_S)

    async def work() -> float:
        started = time.monotonic()
        with pytest.raises(CallTimeout):
            await engine.async_twin.complete(ask())
        gone_s = time.monotonic() - started
        with pytest.raises(Full):
            await engine.async_twin.complete(ask())
        stuck.let_go.set()
        while running(engine):
            await asyncio.sleep(0)
        return gone_s

    gone_s = asyncio.run(asyncio.wait_for(work(), PATIENCE_S))

    assert LIMIT_S <= gone_s < LIMIT_S + SLACK_S
    assert sum(isinstance(event, LateAnswerDropped) for event in events) == 1


def test_a_stream_that_hangs_is_closed_once_it_moves_again(stuck: Stuck, way: Way) -> None:
    engine = guarded(stuck, first_token_s=SLACK_S, between_tokens_s=LIMIT_S)
    heard: list[StreamEvent] = []
    releasing = threading.Timer(4 * LIMIT_S, stuck.let_go.set)
    releasing.start()
    with pytest.raises(CallTimeout) as error:
        way.stream(engine, ask(), heard)
    releasing.join()

    assert error.value.limit == "between_tokens"
    assert [event.type for event in heard] == ["start", "delta"]
    assert stuck.closed.wait(PATIENCE_S)
    assert until(lambda: running(engine) == 0)


def test_a_reader_that_leaves_a_stream_closes_it(stuck: Stuck) -> None:
    engine = guarded(stuck, first_token_s=SLACK_S)
    stream = engine.stream(ask())
    next(stream)
    next(stream)
    stream.close()

    assert stuck.closed.is_set()
    assert running(engine) == 0


def test_a_stream_nobody_reads_to_its_end_frees_its_place_when_forgotten(stuck: Stuck) -> None:
    engine = guarded(stuck, first_token_s=SLACK_S)
    stream = engine.stream(ask())
    next(stream)
    del stream

    assert until(lambda: running(engine) == 0)


def test_threads_wait_in_line_for_a_place() -> None:
    two = EnginePolicy(bulkhead=BulkheadPolicy(max_concurrent=2, max_queued=20))
    pair = threading.Barrier(2, timeout=PATIENCE_S)
    engine: ResilientEngine
    seen: list[int] = []

    class InPairs(FixedAnswer):
        def answer(self, request: Request) -> Response:
            pair.wait()
            seen.append(running(engine))
            pair.wait()
            return super().answer(request)

    engine = ResilientEngine(Policy("a", {"a": two}, deadline_s=PATIENCE_S), {"a": InPairs("x")})
    with ThreadPoolExecutor(12) as threads:
        answers = [answer.text for answer in threads.map(engine.complete, [ask()] * 12)]

    assert answers == ["x"] * 12
    assert seen == [2] * 12


def test_a_circuit_that_opens_while_a_call_waits_in_line_costs_no_place() -> None:
    narrow = EnginePolicy(bulkhead=BulkheadPolicy(max_concurrent=1, max_queued=1))
    engine = ResilientEngine(Policy("a", {"a": narrow}), {"a": FixedAnswer("x")})
    gate = engine._guards["a"].gate
    held = engine.stream(ask())
    next(held)
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(engine.complete, ask())
        assert until(lambda: gate.queued == 1)

        engine.breakers["a"].open()
        held.close()
        with pytest.raises(CircuitOpen):
            waiting.result(PATIENCE_S)

    assert gate.running == 0


@pytest.mark.parametrize("behaviour", ["stall", "dead"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_an_endpoint_that_never_answers_keeps_no_thread_that_was_given_up_on(
    behaviour: str, streamed: bool
) -> None:
    policy = EnginePolicy(
        timeouts=TimeoutPolicy(whole_s=2 * LIMIT_S), retry=RetryPolicy(attempts=1)
    )
    with FaultServer({behaviour: 1}) as server:
        remote = RemoteEngine(server.url, "lab", read_s=10 * PATIENCE_S)
        engine = ResilientEngine(Policy("a", {"a": policy}), {"a": remote})
        with pytest.raises(CallTimeout):
            list(engine.stream(ask())) if streamed else engine.complete(ask())

        assert until(lambda: running(engine) == 0)
        remote.close()


def test_idle_workers_are_used_again_and_end_when_unused() -> None:
    workers = Workers(idle_s=0.02)
    names: list[int] = []

    def run() -> None:
        done = threading.Event()
        workers.start(lambda: names.append(threading.get_ident()), done.set)

        assert done.wait(PATIENCE_S)

    # Whoever is told that a job is done finds its thread at rest.
    for _ in range(100):
        run()

    assert len(set(names)) == 1
    assert until(lambda: not workers._idle)
    run()


def test_hundreds_of_calls_leave_no_threads_behind() -> None:
    policy = EnginePolicy(timeouts=TimeoutPolicy(whole_s=5.0))
    engine = ResilientEngine(Policy("a", {"a": policy}), {"a": FixedAnswer("x")})
    engine.complete(ask())
    before = threading.active_count()
    for _ in range(300):
        engine.complete(ask())
    list(engine.stream(ask()))

    assert threading.active_count() <= before


def test_subscribers_hear_of_every_attempt_from_worker_threads_too(stuck: Stuck) -> None:
    stuck.let_go.set()
    heard: list[Event] = []
    with subscribed(heard.append):
        guarded(stuck, whole_s=5.0).complete(ask())

    assert [type(event) for event in heard] == [AttemptFinished]


class Flaky(FixedAnswer):
    """Fails the first two attempts of every request."""

    def __init__(self) -> None:
        super().__init__("x")
        self.attempts: Counter[str] = Counter()

    def answer(self, request: Request) -> Response:
        text = request.messages[0].text
        self.attempts[text] += 1
        if self.attempts[text] < 3:
            raise ServerError("not yet")
        return FixedAnswer(text).answer(request)


@pytest.mark.parametrize("coroutines", [False, True], ids=["threads", "coroutines"])
def test_retries_of_many_calls_at_once_do_not_disturb_one_another(coroutines: bool) -> None:
    policy = EnginePolicy(
        retry=RetryPolicy(attempts=3, first_wait_s=0.002, max_wait_s=0.002), breaker=None
    )
    flaky = Flaky()
    engine = ResilientEngine(Policy("a", {"a": policy}), {"a": flaky})
    texts = [str(number) for number in range(40)]

    async def all_at_once() -> list[Response]:
        return await asyncio.gather(*(engine.async_twin.complete(ask(text)) for text in texts))

    if coroutines:
        answers = asyncio.run(all_at_once())
    else:
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(lambda text: engine.complete(ask(text)), texts))

    assert [answer.text for answer in answers] == texts
    assert set(flaky.attempts.values()) == {3}
