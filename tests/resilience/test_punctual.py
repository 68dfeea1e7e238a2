"""Engines that heed the limit of a call themselves are asked where the call is made."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import (
    Config,
    Message,
    Request,
    Response,
    ServerError,
    StreamDeltaEvent,
    StreamEvent,
    StreamStartEvent,
    TextDelta,
    next_in_time,
)
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.events import Event, LateAnswerDropped
from dspy_toolkit.resilience import (
    EnginePolicy,
    FixedAnswer,
    Policy,
    ResilientEngine,
    RetryPolicy,
    TimeoutPolicy,
    answered_by,
)
from dspy_toolkit.resilience.errors import CallTimeout
from tests.engine.tiny import write_model
from tests.resilience.conftest import ask, kinds

SHORT_S = 0.02


class Silent:
    """Never answers, and leaves when its caller does."""

    punctual = True

    def __init__(self) -> None:
        self.threads: list[int] = []

    def complete(self, request: Request) -> Response:
        self.threads.append(threading.get_ident())
        if request.messages[-1].text == "break":
            raise ServerError("broken at once")
        return next_in_time(SimpleQueue())

    def stream(self, request: Request) -> Iterator[StreamEvent]:
        self.threads.append(threading.get_ident())
        yield StreamStartEvent(model="m")
        yield StreamDeltaEvent(delta=TextDelta(text="one", part_index=0))
        next_in_time(SimpleQueue[StreamEvent]())

    def close(self) -> None:
        pass


def guarded(engine: object, timeouts: TimeoutPolicy) -> ResilientEngine:
    once = RetryPolicy(attempts=1)
    policy = Policy(
        "silent",
        {
            "silent": EnginePolicy(fallback="default", timeouts=timeouts, retry=once),
            "default": EnginePolicy(),
        },
    )
    return ResilientEngine(policy, {"silent": engine, "default": FixedAnswer("x")})  # type: ignore[dict-item]


def test_it_is_given_up_on_in_time_without_a_thread_and_its_place_is_free(
    events: list[Event],
) -> None:
    silent = Silent()
    engine = guarded(silent, TimeoutPolicy(whole_s=SHORT_S))

    assert answered_by(engine.complete(ask())) == "default"
    assert silent.threads == [threading.get_ident()]
    assert engine._guards["silent"].gate.running == 0
    assert kinds(events, LateAnswerDropped) == []


def test_its_own_errors_stay_its_own() -> None:
    policy = Policy("silent", {"silent": EnginePolicy(retry=RetryPolicy(attempts=1))})
    engine = ResilientEngine(policy, {"silent": Silent()})

    with pytest.raises(ServerError, match="broken at once"):
        engine.complete(ask("break"))


def test_its_stream_is_given_up_on_between_tokens() -> None:
    silent = Silent()
    limits = TimeoutPolicy(first_token_s=5.0, between_tokens_s=SHORT_S)
    engine = guarded(silent, limits)
    stream = engine.stream(ask())
    heard = [next(stream), next(stream)]

    with pytest.raises(CallTimeout, match="between_tokens"):
        next(stream)

    assert [event.type for event in heard] == ["start", "delta"]
    assert silent.threads == [threading.get_ident()]
    assert engine._guards["silent"].gate.running == 0


def test_a_model_leaves_a_call_whose_caller_has_given_up(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    model = open_engine(str(folder), EngineOptions(device="cpu"), Settings(home=tmp_path))
    engine = guarded(model, TimeoutPolicy(whole_s=SHORT_S))
    long = Request(
        model="m",
        messages=(Message.user("Tell me."),),
        config=Config(max_tokens=400, extensions={}),
    )
    by = answered_by(engine.complete(long))
    model.complete(ask("again"))
    left = model.running
    model.close()

    assert by == "default"
    assert left == 0
