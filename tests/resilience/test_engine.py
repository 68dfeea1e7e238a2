"""A policy over engines: who answered, what fits it, what is saved and closed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dspy_toolkit.contract import Request, Response
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.resilience import (
    EnginePolicy,
    FixedAnswer,
    ManualClock,
    Policy,
    ResilientEngine,
    answered_by,
)
from tests.resilience.conftest import Bench, Way, ask

MakeBench = Callable[..., Bench]


def test_when_all_is_well_the_answer_says_who_gave_it(bench: MakeBench, way: Way) -> None:
    made = bench(local=EnginePolicy())
    response = way.complete(made.build(), ask())

    assert response.text == "answer of local"
    assert answered_by(response) == "local"
    assert answered_by(FixedAnswer("x").complete(ask())) is None


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
