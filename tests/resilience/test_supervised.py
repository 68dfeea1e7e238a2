"""Engines in processes that are really killed, stopped, hung and starved."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from dspy_toolkit.contract import InvalidRequestError, RateLimitError, ServerError
from dspy_toolkit.events import ChildEnded, Event
from dspy_toolkit.resilience import EnginePolicy, Policy, ResilientEngine, SupervisedEngine
from dspy_toolkit.resilience.supervised.calls import EngineRestarted
from tests.resilience.conftest import kinds, text_of
from tests.resilience.puppet import ask
from tests.resilience.supervising import PATIENCE_S, Start, reasons

CALLERS = 32


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
