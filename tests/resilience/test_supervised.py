"""Engines in processes that are really killed, stopped, hung and starved."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from dspy_toolkit.contract import (
    ConfigurationError,
    InvalidRequestError,
    RateLimitError,
    ServerError,
    TimeoutError,
    gives_up_at,
    request_to_dict,
)
from dspy_toolkit.errors import EngineError, InvalidInput, NotFound
from dspy_toolkit.events import BreakerChanged, ChildEnded, ChildStarted, Event, subscribed
from dspy_toolkit.resilience import (
    EnginePolicy,
    Opening,
    Policy,
    ResilientEngine,
    SupervisedEngine,
    SupervisionPolicy,
)
from dspy_toolkit.resilience.errors import CircuitOpen
from dspy_toolkit.resilience.supervised.calls import EngineRestarted
from dspy_toolkit.resilience.supervised.life import Life
from dspy_toolkit.resilience.supervised.wire import Frame, Link
from tests.resilience.conftest import kinds, text_of
from tests.resilience.puppet import ask

QUICK = SupervisionPolicy(
    beat_s=0.1,
    silent_s=1.5,
    first_token_s=2.0,
    between_tokens_s=2.0,
    first_wait_s=0.01,
    max_wait_s=0.05,
    stable_s=0.5,
    rest_s=30.0,
    crashes=20,
)
PATIENCE_S = 60.0
CALLERS = 32

Start = Callable[..., SupervisedEngine]


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def started(engine: str = "puppet", **changes: Any) -> SupervisedEngine:
            policy = SupervisionPolicy(**{**vars(QUICK), **changes})
            opened = SupervisedEngine(Opening(f"tests.resilience.puppet:{engine}"), policy)
            stack.callback(opened.close)
            return opened

        yield started


@pytest.fixture(scope="module")
def shared() -> Iterator[SupervisedEngine]:
    """One engine that the tests harm in turn; a new one for each would cost a second each."""
    policy = SupervisionPolicy(**{**vars(QUICK), "crashes": 1000})
    engine = SupervisedEngine(Opening("tests.resilience.puppet:puppet"), policy)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared: SupervisedEngine) -> SupervisedEngine:
    shared.complete(ask("ready?"))
    return shared


def reasons(events: list[Event]) -> list[str]:
    return [event.reason for event in kinds(events, ChildEnded)]  # type: ignore[attr-defined]


def test_it_answers_as_its_engine_does_and_its_process_is_another(engine: SupervisedEngine) -> None:

    assert engine.complete(ask("hello")).text == "you said: hello"
    assert text_of(list(engine.stream(ask("hello")))) == "you said: hello"
    assert engine.model_string == "puppet"
    assert engine.process_id not in (None, os.getpid())


def test_errors_of_the_engine_arrive_as_they_were_raised(engine: SupervisedEngine) -> None:

    with pytest.raises(InvalidRequestError, match="not this") as refusal:
        engine.complete(ask("refuse"))
    with pytest.raises(RateLimitError) as limit:
        list(engine.stream(ask("limit")))

    assert refusal.value.provider == "puppet"
    assert limit.value.retry_after == 1.5


def test_a_request_that_is_no_text_is_refused_and_nothing_of_it_stays(
    engine: SupervisedEngine,
) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be sent"):
        engine.complete(ask("half a character: \ud83d"))

    assert engine.running == 0
    assert engine.complete(ask("hello")).text == "you said: hello"


def test_a_process_whose_memory_is_exhausted_is_started_again(
    engine: SupervisedEngine, events: list[Event]
) -> None:
    with pytest.raises(ServerError):
        engine.complete(ask("exhaust"))

    assert engine.complete(ask("again")).text == "you said: again"
    assert reasons(events) == ["memory"]


def test_a_call_that_a_lost_process_held_is_made_again_unseen(
    engine: SupervisedEngine, events: list[Event], tmp_path: Path
) -> None:
    question = f"die-once {tmp_path / 'died'}"

    assert engine.complete(ask(question)).text == f"you said: {question}"
    assert kinds(events, ChildEnded) == [ChildEnded("supervised", "crashed", 1, 0, "exit status 9")]


def test_a_stream_of_which_nothing_was_heard_is_made_again_with_one_start(
    engine: SupervisedEngine, tmp_path: Path
) -> None:
    heard = list(engine.stream(ask(f"die-once {tmp_path / 'died'}")))

    assert [event.type for event in heard] == ["start", "delta", "delta", "end"]


def test_a_call_that_ends_every_process_fails_and_may_be_retried(
    engine: SupervisedEngine, events: list[Event]
) -> None:

    with pytest.raises(EngineRestarted) as failure:
        engine.complete(ask("die"))

    assert failure.value.retryable
    assert [(e.replayed, e.failed) for e in kinds(events, ChildEnded)] == [(1, 0), (0, 1)]  # type: ignore[attr-defined]
    assert engine.complete(ask("well")).text == "you said: well"


def test_a_stream_that_was_heard_in_part_is_never_made_again(
    engine: SupervisedEngine, events: list[Event]
) -> None:
    stream = engine.stream(ask("dribble 2"))
    heard = [next(stream) for _ in range(3)]
    os.kill(engine.process_id or 0, signal.SIGKILL)

    with pytest.raises(EngineRestarted):
        next(stream)

    assert text_of(heard) == "0 1 "
    assert [(e.replayed, e.failed) for e in kinds(events, ChildEnded)] == [(0, 1)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("dribble 2", "between_tokens"),
        pytest.param("hang", "first_token", marks=pytest.mark.slow),
        pytest.param("block", "no_heartbeat", marks=pytest.mark.slow),
    ],
)
def test_an_engine_that_hangs_is_replaced(
    engine: SupervisedEngine, events: list[Event], question: str, reason: str
) -> None:

    with pytest.raises(EngineRestarted, match=reason):
        list(engine.stream(ask(question)))

    assert reasons(events)[-1] == reason
    assert engine.complete(ask("well")).text == "you said: well"


@pytest.mark.slow
def test_a_process_that_holds_too_much_memory_is_replaced(
    shared: SupervisedEngine, start: Start, events: list[Event]
) -> None:
    held = psutil.Process(shared.process_id).memory_info().rss
    engine = start(memory_bytes=held + (100 << 20), replays=0)

    def eat() -> None:
        for _ in range(100):
            engine.complete(ask("eat 20"))
            engine.complete(ask("pause 0.2"))

    with pytest.raises(EngineRestarted, match="memory"):
        eat()

    # Also between two calls, when none is lost.
    assert set(reasons(events)) == {"memory"}


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_under_load_nobody_hangs_and_every_call_is_answered(
    engine: SupervisedEngine, events: list[Event], harm: signal.Signals
) -> None:
    under_way = threading.Barrier(CALLERS + 1)

    def call(number: int) -> str:
        under_way.wait()
        return engine.complete(ask(f"pause 0.3{number}")).text or ""

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = [pool.submit(call, number) for number in range(CALLERS)]
        under_way.wait()
        os.kill(engine.process_id or 0, harm)
        texts = [answer.result(PATIENCE_S) for answer in answers]

    assert texts == [f"you said: pause 0.3{number}" for number in range(CALLERS)]
    assert len(kinds(events, ChildEnded)) == 1


@pytest.mark.slow
def test_a_crash_loop_opens_the_breaker_and_closing_it_by_hand_tries_again(
    start: Start, events: list[Event]
) -> None:
    engine = start(crashes=2, replays=9)

    with pytest.raises(CircuitOpen) as refusal:
        engine.complete(ask("die"))

    assert refusal.value.retry_after
    assert [e.after for e in kinds(events, BreakerChanged)] == ["open"]  # type: ignore[attr-defined]
    assert len(kinds(events, ChildStarted)) == 2
    with pytest.raises(CircuitOpen):
        engine.complete(ask("hello"))

    assert not engine.alive

    engine.breaker.close()

    assert engine.complete(ask("hello")).text == "you said: hello"


@pytest.mark.slow
def test_a_process_that_stays_up_closes_the_breaker_it_was_tried_by(
    start: Start, events: list[Event]
) -> None:
    engine = start(crashes=1, rest_s=0.6, stable_s=0.2, replays=0)
    closed = threading.Event()

    def hear(event: Event) -> None:
        if isinstance(event, BreakerChanged) and event.after == "closed":
            closed.set()

    with subscribed(hear):
        with pytest.raises(EngineRestarted):
            engine.complete(ask("die"))
        closed.wait(PATIENCE_S)

    assert [e.after for e in kinds(events, BreakerChanged)] == ["open", "half-open", "closed"]  # type: ignore[attr-defined]
    assert engine.complete(ask("hello")).text == "you said: hello"


@pytest.mark.parametrize(
    ("engine", "error", "message"),
    [
        ("missing", NotFound, "nowhere"),
        ("broken", EngineError, "status 3"),
        pytest.param("never_ready", EngineError, "raise load_s", marks=pytest.mark.slow),
        ("absent", EngineError, "absent"),
    ],
)
def test_a_child_that_cannot_open_its_engine_says_why(
    start: Start, engine: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        start(engine, load_s=4.0)


def test_a_process_that_cannot_be_started_is_told_of_at_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    with pytest.raises(EngineError, match=r"could not be started.*/nowhere/python"):
        start()


def test_a_process_that_cannot_be_started_again_is_tried_until_it_can(
    engine: SupervisedEngine, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = threading.Event()

    def hear(event: Event) -> None:
        if isinstance(event, ChildEnded) and len(reasons(events)) > 1:
            refused.set()

    with subscribed(hear), monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        os.kill(engine.process_id or 0, signal.SIGKILL)

        assert refused.wait(PATIENCE_S)

    assert engine.complete(ask("back")).text == "you said: back"
    assert set(reasons(events)) == {"crashed"}


def test_a_call_that_is_left_while_a_new_process_gets_it_is_taken_back_after_it_was_made(
    engine: SupervisedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = engine._supervisor
    order = {"by": 0, "request": request_to_dict(ask("hang")), "streamed": True}
    call = supervisor.submit(order, lambda _: None)
    leaving = threading.Thread(target=supervisor.leave, args=(call,))
    sent: list[str] = []
    taken_back = threading.Event()
    send = Link.send

    def watched(link: Link, frame: Frame) -> None:
        if "call" in frame:
            leaving.start()
            # Where it can, it is through by then.
            leaving.join(0.1)
        send(link, frame)
        sent.append(next(iter(frame)))
        if "cancel" in frame:
            taken_back.set()

    monkeypatch.setattr(Link, "send", watched)
    os.kill(engine.process_id or 0, signal.SIGKILL)

    assert taken_back.wait(PATIENCE_S)
    leaving.join()
    assert sent == ["path", "call", "cancel"]


def test_closing_ends_the_process_and_the_calls_it_holds(start: Start) -> None:
    engine = start(first_token_s=60.0)
    process = psutil.Process(engine.process_id)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(engine.complete, ask("hang"))
        while not engine.running:
            pass
        engine.close()
        with pytest.raises(ConfigurationError, match="closed"):
            held.result(PATIENCE_S)

    assert not process.is_running()
    with pytest.raises(ConfigurationError, match="closed"):
        engine.complete(ask("hello"))


_LONE_PARENT = """
import sys
from dspy_toolkit.resilience import Opening, SupervisedEngine
engine = SupervisedEngine(Opening("tests.resilience.puppet:" + sys.argv[1]))
print(engine.process_id, file=sys.stderr, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["puppet", "never_ready"], ids=["serving", "loading"])
def test_a_child_whose_supervisor_was_killed_ends_by_itself(engine: str) -> None:
    command = [sys.executable, "-c", _LONE_PARENT, engine]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stderr is not None

        child = psutil.Process(int(parent.stderr.readline()))
        parent.kill()

    assert child.wait(PATIENCE_S) is None


def test_a_caller_who_stops_waiting_gets_its_thread_back_and_frees_the_engine(
    start: Start,
) -> None:
    engine = start(first_token_s=60.0)
    token = gives_up_at.set(time.monotonic() + 0.05)
    try:
        with pytest.raises(TimeoutError, match="nobody waits"):
            engine.complete(ask("hang"))
    finally:
        gives_up_at.reset(token)

    assert engine.running == 0


def test_coroutines_share_the_process(
    engine: SupervisedEngine, events: list[Event], tmp_path: Path
) -> None:
    question = f"die-once {tmp_path / 'died'}"

    async def both() -> tuple[str, str]:
        twin = engine.async_twin
        whole, *_ = await asyncio.gather(
            twin.complete(ask(question)), *(twin.complete(ask(str(n))) for n in range(8))
        )
        heard = [event async for event in twin.stream(ask("streamed"))]
        return whole.text, text_of(heard)

    assert asyncio.run(both()) == (f"you said: {question}", "you said: streamed")
    assert len(kinds(events, ChildEnded)) == 1


def test_it_stands_in_a_policy_which_retries_what_a_lost_process_held(start: Start) -> None:
    engine = start(replays=0)
    policy = Policy("child", {"child": EnginePolicy()})
    guarded = ResilientEngine(policy, {"child": engine})
    stream = guarded.stream(ask("hello"))

    assert text_of(list(stream)) == "you said: hello"

    os.kill(engine.process_id or 0, signal.SIGKILL)

    assert guarded.complete(ask("after")).text == "you said: after"


def test_an_engine_that_is_closed_while_a_new_process_loads_is_closed_there_too(
    events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening("tests.resilience.puppet:puppet")
    first, second = (SupervisedEngine(opening, QUICK, shared_as="closing") for _ in range(2))
    both = first.complete(ask("count")).text

    def started(openings: dict[int, Opening], beat_s: float) -> Life:
        life = Life(openings, beat_s)
        second.close()
        return life

    monkeypatch.setattr("dspy_toolkit.resilience.supervised.supervisor.Life", started)
    os.kill(first.process_id or 0, signal.SIGKILL)
    one = first.complete(ask("count")).text
    first.close()

    assert (both, one) == ("2 open", "1 open")


@pytest.mark.slow
def test_a_further_engine_may_take_as_long_to_open_as_load_s_says(events: list[Event]) -> None:
    values = {"first_token_s": 0.8, "between_tokens_s": 0.8, "load_s": 4.0}
    policy = SupervisionPolicy(**{**vars(QUICK), **values})
    with contextlib.ExitStack() as stack:

        def opened(name: str, **arguments: float) -> SupervisedEngine:
            opening = Opening(f"tests.resilience.puppet:{name}", arguments)
            engine = SupervisedEngine(opening, policy, shared_as="opening")
            stack.callback(engine.close)
            return engine

        opened("puppet")
        further = opened("slow", seconds=1.5)

        assert further.complete(ask("hello")).text == "you said: hello"

        with pytest.raises(EngineError, match="raise load_s"):
            opened("slow", seconds=60.0)

        assert further.complete(ask("hello")).text == "you said: hello"

    assert kinds(events, ChildEnded) == []


def test_it_can_be_saved_and_started_again(start: Start) -> None:
    engine = start()
    state = json.loads(json.dumps(engine.dump_state()))
    engine.close()
    again = SupervisedEngine.load_state(state)
    text = again.complete(ask("hello")).text
    again.close()

    assert text == "you said: hello"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"load_s": 0.0}, "load_s"),
        ({"first_wait_s": 40.0}, "longer than max_wait_s"),
        ({"beat_s": 9.0}, "longer than silent_s"),
        ({"stable_s": 90.0}, "longer than rest_s"),
        ({"rest_s": 900.0}, "longer than window_s"),
        ({"memory_bytes": 0}, "memory_bytes"),
        ({"replays": -1}, "replays"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        SupervisionPolicy(**values)


def test_an_opening_that_names_no_function_is_refused() -> None:
    with pytest.raises(InvalidInput, match="module:name"):
        Opening("nothing")
