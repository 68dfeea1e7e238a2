"""Processes that do not start, start again and again, or are started later."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from typing import Any

import pytest

from dspy_toolkit.errors import EngineError, InvalidInput, NotFound
from dspy_toolkit.events import BreakerChanged, ChildEnded, ChildStarted, Event, subscribed
from dspy_toolkit.resilience import Opening, SupervisedEngine, SupervisionPolicy
from dspy_toolkit.resilience.errors import CircuitOpen
from dspy_toolkit.resilience.supervised.calls import EngineRestarted
from tests.resilience.conftest import kinds
from tests.resilience.puppet import ask
from tests.resilience.supervising import PATIENCE_S, QUICK, Start, reasons


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
        ("absent", EngineError, "absent"),
    ],
)
def test_a_child_that_cannot_open_its_engine_says_why(
    start: Start, engine: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        start(engine, load_s=PATIENCE_S)


@pytest.mark.slow
def test_a_child_that_does_not_get_ready_says_what_to_change(start: Start) -> None:
    with pytest.raises(EngineError, match="raise load_s"):
        start("never_ready", load_s=4.0)


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
