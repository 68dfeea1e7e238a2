from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dspy_toolkit.contract import Config, Message, Request, ServerError
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.resilience import (
    AnswerMemory,
    EnginePolicy,
    FaultyEngine,
    FixedAnswer,
    ManualClock,
    Policy,
    ResilientEngine,
    RetryPolicy,
    answered_by,
)
from dspy_toolkit.resilience.answers import NothingRemembered
from tests.resilience.conftest import Way, ask, text_of


@pytest.fixture
def memory(clock: ManualClock) -> AnswerMemory:
    return AnswerMemory(max_answers=2, keep_s=100.0, time=clock)


def chain(clock: ManualClock, memory: AnswerMemory) -> tuple[ResilientEngine, FaultyEngine]:
    model = FaultyEngine(FixedAnswer(lambda request: f"to {request.messages[0].text}"), clock)
    policy = Policy(
        "model",
        {
            "model": EnginePolicy(fallback="memory", retry=RetryPolicy(attempts=1), breaker=None),
            "memory": EnginePolicy(fallback="default", retry=RetryPolicy(attempts=1)),
            "default": EnginePolicy(),
        },
    )
    engines: dict[str, Any] = {
        "model": model,
        "memory": memory,
        "default": FixedAnswer("cannot say"),
    }
    return ResilientEngine(policy, engines, clock=clock), model


def test_a_fixed_answer_is_the_same_whole_and_in_pieces(clock: ManualClock, way: Way) -> None:
    engine = FixedAnswer('{"team": "unknown"}')
    heard: list[Any] = []
    way.stream(engine, ask(), heard)

    assert way.complete(engine, ask()).text == '{"team": "unknown"}'
    assert text_of(heard) == '{"team": "unknown"}'


def test_a_fixed_answer_may_be_made_from_the_request() -> None:
    engine = FixedAnswer(lambda request: request.messages[0].text.upper())

    assert engine.complete(ask("abc")).text == "ABC"
    with pytest.raises(InvalidInput, match="made by a function"):
        engine.dump_state()


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_given_before_is_given_again_when_the_model_is_gone(
    clock: ManualClock, memory: AnswerMemory, way: Way, streamed: bool
) -> None:
    engine, model = chain(clock, memory)
    if streamed:
        way.stream(engine, ask("a"), [])
    else:
        way.complete(engine, ask("a"))
    model.fail_next(ServerError("down"), times=2)
    again, other = way.complete(engine, ask("a")), way.complete(engine, ask("b"))

    assert (again.text, answered_by(again)) == ("to a", "memory")
    assert (other.text, answered_by(other)) == ("cannot say", "default")


def test_defaults_and_repetitions_are_not_remembered(
    clock: ManualClock, memory: AnswerMemory, way: Way
) -> None:
    engine, model = chain(clock, memory)
    model.fail_next(ServerError("down"), times=3)
    way.complete(engine, ask("a"))

    assert answered_by(way.complete(engine, ask("a"))) == "default"


def test_the_same_prompt_is_the_same_whatever_the_sampling(memory: AnswerMemory) -> None:
    request = ask("a")
    memory.remember(request, FixedAnswer("kept").answer(request))
    warmer = replace(request, config=Config(temperature=1.0, seed=7))
    schema = {"type": "json_schema", "schema": {"type": "object"}}

    assert memory.complete(warmer).text == "kept"
    for other in (
        replace(request, system="Be brief."),
        replace(request, config=Config(response_format=schema)),
        Request(model="m", messages=(Message.user("b"),)),
    ):
        with pytest.raises(NothingRemembered):
            memory.complete(other)


def test_old_answers_and_the_least_used_are_forgotten(
    clock: ManualClock, memory: AnswerMemory
) -> None:
    for text in ("a", "b"):
        memory.remember(ask(text), FixedAnswer(text).answer(ask(text)))
    memory.complete(ask("a"))
    memory.remember(ask("c"), FixedAnswer("c").answer(ask("c")))
    with pytest.raises(NothingRemembered):
        memory.complete(ask("b"))
    clock.advance(101.0)

    with pytest.raises(NothingRemembered):
        memory.complete(ask("a"))


@pytest.mark.parametrize("settings", [{"max_answers": 0}, {"keep_s": 0.0}])
def test_a_memory_of_nothing_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        AnswerMemory(**settings)


def test_both_are_built_again_from_their_state() -> None:
    assert FixedAnswer.load_state(FixedAnswer("x", "m").dump_state()).complete(ask()).text == "x"
    assert AnswerMemory.load_state(AnswerMemory(7, 8.0).dump_state()).dump_state() == {
        "max_answers": 7,
        "keep_s": 8.0,
    }
