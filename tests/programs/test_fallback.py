"""Programs that are answered for by others, over real programs and scripted models."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import dspy
import pytest

from dspy_toolkit.contract import ServerError
from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.events import Event, FallbackUsed, subscribed
from dspy_toolkit.programs.answer_sources import Source, TypedDefault
from dspy_toolkit.programs.fallback import FallbackProgram, in_order
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.resilience import (
    AnswerMemory,
    BreakerPolicy,
    EnginePolicy,
    FaultyEngine,
    ManualClock,
    Policy,
    ResilientEngine,
    RetryPolicy,
    TimeoutPolicy,
)

Team = Literal["atlas", "boreas", "unknown"]
TEAMS = get_args(Team)


class Triage(dspy.Signature):  # type: ignore[misc]  # DSPy ships no types
    """Route the ticket."""

    ticket: str = dspy.InputField()
    team: Team = dspy.OutputField()
    urgent: bool = dspy.OutputField()


def text(team: str, urgent: bool = False) -> str:
    return f"[[ ## team ## ]]\n{team}\n\n[[ ## urgent ## ]]\n{urgent}\n\n[[ ## completed ## ]]"


@dataclass
class Model:
    """A program over a model that fails on command."""

    program: dspy.Module
    faults: FaultyEngine


def model(
    clock: ManualClock, team: str, signature: Any = Triage, kind: Any = dspy.Predict
) -> Model:
    said = "[[ ## reasoning ## ]]\nwhy\n\n" if kind is dspy.ChainOfThought else ""
    faults = FaultyEngine(ScriptedEngine(lambda _: said + text(team), name=team), clock)
    program = kind(signature)
    program.set_lm(LocalLM(team, engine=faults, async_engine=faults.async_twin, cache=False))
    return Model(program, faults)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


Way = Callable[..., Any]


def by_threads(program: dspy.Module, **inputs: Any) -> Any:
    return program(**inputs)


def by_coroutines(program: dspy.Module, **inputs: Any) -> Any:
    return asyncio.run(program.acall(**inputs))


@pytest.fixture(params=[by_threads, by_coroutines])
def ask(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


def down(*models: Model, times: int = 1) -> None:
    for each in models:
        each.faults.fail_next(ServerError("down"), times=times)


def test_the_first_program_answers_and_the_prediction_says_so(clock: ManualClock, ask: Way) -> None:
    large, small = model(clock, "atlas"), model(clock, "boreas")
    program = FallbackProgram({"large": large.program, "small": small.program}, clock=clock)
    answer = ask(program, ticket="no heat")

    assert (answer.team, answer.urgent, answer.answered_by) == ("atlas", False, "large")
    assert dict(answer.items()) == {"team": "atlas", "urgent": False}
    assert small.faults.calls == 0


def test_the_next_one_is_asked_when_one_fails(clock: ManualClock, ask: Way) -> None:
    large, small = model(clock, "atlas"), model(clock, "boreas", kind=dspy.ChainOfThought)
    heard: list[Event] = []
    program = FallbackProgram({"large": large.program, "small": small.program}, clock=clock)
    down(large)
    with subscribed(heard.append):
        answer = ask(program, ticket="no heat")

    assert (answer.team, answer.answered_by) == ("boreas", "small")
    assert [e for e in heard if isinstance(e, FallbackUsed)] == [
        FallbackUsed("large", "small", "provider")
    ]


def test_an_answer_that_cannot_be_read_is_a_failure_too(clock: ManualClock, ask: Way) -> None:
    large, small = model(clock, "nonsense"), model(clock, "boreas")
    program = FallbackProgram({"large": large.program, "small": small.program}, clock=clock)

    assert ask(program, ticket="no heat").answered_by == "small"


class Heads:
    """Answers as a head model does."""

    def __init__(self, outputs: Mapping[str, Any], inputs: tuple[str, ...] = ("ticket",)) -> None:
        specs = tuple(
            SimpleNamespace(field=name, options=TEAMS if name == "team" else ()) for name in outputs
        )
        self.facts = SimpleNamespace(signature="triage@1.0.0", inputs=inputs, specs=specs)
        self._outputs = dict(outputs)

    def predict(self, inputs: Mapping[str, Any]) -> Any:
        return SimpleNamespace(outputs=self._outputs)


def test_heads_memory_and_default_stand_in_one_after_the_other(
    clock: ManualClock, ask: Way
) -> None:
    large = model(clock, "atlas")
    heads = Heads({"team": "boreas", "urgent": True})
    sources: dict[str, Source] = {
        "large": large.program,
        "memory": AnswerMemory(time=clock),
        "default": TypedDefault({"team": "unknown", "urgent": False}),
    }
    program = FallbackProgram(sources, clock=clock)
    known = ask(program, ticket="no heat")
    down(large, times=2)

    again, other = ask(program, ticket="no heat"), ask(program, ticket="no light")

    assert (known.answered_by, again.answered_by, other.answered_by) == (
        "large",
        "memory",
        "default",
    )
    assert (again.team, again.urgent) == ("atlas", False)
    assert (other.team, other.urgent) == ("unknown", False)

    down(large)
    answer = ask(FallbackProgram({"large": large.program, "heads": heads}), ticket="x")

    assert (answer.team, answer.urgent, answer.answered_by) == ("boreas", True, "heads")


def test_a_program_that_takes_too_long_is_given_up_on(clock: ManualClock, ask: Way) -> None:
    large, small = model(clock, "atlas"), model(clock, "boreas")
    policy = Policy(
        "large",
        {
            "large": EnginePolicy(
                fallback="small", timeouts=TimeoutPolicy(whole_s=2.0), retry=RetryPolicy(attempts=1)
            ),
            "small": EnginePolicy(reserve_s=1.0),
        },
        deadline_s=5.0,
    )
    program = FallbackProgram({"large": large.program, "small": small.program}, policy, clock=clock)
    large.faults.stall()
    began = clock.now()

    assert ask(program, ticket="no heat").answered_by == "small"
    assert clock.now() - began == 2.0


def test_a_program_that_keeps_failing_is_left_alone(clock: ManualClock, ask: Way) -> None:
    large, small = model(clock, "atlas"), model(clock, "boreas")
    breaker = BreakerPolicy(window_calls=3, minimum_calls=3)
    policy = Policy(
        "large",
        {
            "large": EnginePolicy(fallback="small", breaker=breaker, retry=RetryPolicy(attempts=1)),
            "small": EnginePolicy(),
        },
    )
    program = FallbackProgram({"large": large.program, "small": small.program}, policy, clock=clock)
    down(large, times=9)
    asked = [ask(program, ticket="no heat").answered_by for _ in range(6)]

    assert asked == ["small"] * 6
    assert program.breakers["large"].view().state == "open"
    assert large.faults.calls < 9


def test_copies_ask_their_own_programs_and_can_be_saved_and_loaded(
    clock: ManualClock, tmp_path: Path
) -> None:
    large = model(clock, "atlas")
    program = FallbackProgram(
        {"large": large.program, "default": TypedDefault({"team": "unknown", "urgent": True})},
        clock=clock,
    )
    copy, lm = program.deepcopy(), large.program.get_lm()
    copy.set_lm(None)
    copied: Any = copy.sources["large"]
    copied.demos = [dspy.Example(ticket="a", team="atlas", urgent=True)]
    copy.save(tmp_path / "state.json")
    program.load(tmp_path / "state.json")

    loaded: Any = program.sources["large"]

    assert len(loaded.demos) == 1
    assert [name for name, _ in program.named_predictors()] == ["sources['large']"]

    copy.set_lm(lm)

    assert copy(ticket="b").answered_by == "large"


def test_the_prediction_says_which_engine_answered_its_program_too(
    clock: ManualClock, ask: Way
) -> None:
    policy = Policy("local", {"local": EnginePolicy(fallback="remote"), "remote": EnginePolicy()})
    local = FaultyEngine(ScriptedEngine(lambda _: text("atlas")), clock)
    remote = ScriptedEngine(lambda _: text("boreas"))
    engine = ResilientEngine(policy, {"local": local, "remote": remote}, clock=clock)
    predict = dspy.Predict(Triage)
    predict.set_lm(LocalLM("x", engine=engine, async_engine=engine.async_twin, cache=False))
    program = FallbackProgram({"only": predict}, clock=clock)
    at_first = ask(program, ticket="no heat")
    engine.breakers["local"].open()
    later = ask(program, ticket="no heat")

    assert (at_first.answered_by, at_first.engines) == ("only", ("local",))
    assert (later.answered_by, later.engines) == ("only", ("remote",))


def test_programs_with_fallbacks_may_be_nested_and_used_as_any_program(clock: ManualClock) -> None:
    large, small = model(clock, "atlas"), model(clock, "boreas")
    inner = FallbackProgram({"large": large.program, "small": small.program}, clock=clock)
    default = TypedDefault({"team": "unknown", "urgent": False})
    outer = FallbackProgram({"models": inner, "default": default}, clock=clock)

    assert outer(ticket="x").answered_by == "models"

    down(large, small)

    assert outer(ticket="x").answered_by == "default"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("ticket -> team", "another signature"),
        ("ticket, note -> team, urgent: bool", "another signature"),
        (
            "ticket -> team: Literal['atlas', 'zephyr'], urgent: bool",
            re.escape("team: Literal['atlas', 'zephyr'], urgent: bool, and ticket: str"),
        ),
    ],
)
def test_a_fallback_of_another_signature_is_refused(
    clock: ManualClock, other: str, message: str
) -> None:
    large, small = model(clock, "atlas"), model(clock, "boreas", signature=other)

    with pytest.raises(InvalidInput, match=message):
        FallbackProgram({"large": large.program, "small": small.program})


def test_other_instructions_and_demonstrations_are_no_other_signature(clock: ManualClock) -> None:
    large, small = model(clock, "atlas"), model(clock, "boreas")
    small.program.signature = small.program.signature.with_instructions("Be quick.")

    assert FallbackProgram({"large": large.program, "small": small.program}, clock=clock)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (TypedDefault({"team": "unknown"}), "no value for the output 'urgent'"),
        (TypedDefault({"team": "unknown", "urgent": True, "tem": 1}), "did you mean 'team'"),
        (TypedDefault({"team": "nobody", "urgent": True}), "does not fit"),
        (Heads({"team": "atlas"}), "another signature"),
        (Heads({"team": "atlas", "urgent": True}, inputs=("letter",)), "another signature"),
        (dspy.Module(), "does not say what goes in and out"),
    ],
)
def test_a_stand_in_that_does_not_fit_is_refused(
    clock: ManualClock, source: Source, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        FallbackProgram({"large": model(clock, "atlas").program, "other": source})


def test_heads_that_were_trained_for_other_labels_are_refused(clock: ManualClock) -> None:
    heads = Heads({"team": "atlas", "urgent": True})
    heads.facts.specs[0].options = ("atlas", "zephyr")

    with pytest.raises(InvalidInput, match=r"team: Literal\['atlas', 'zephyr'\]"):
        FallbackProgram({"large": model(clock, "atlas").program, "other": heads})


def test_the_same_program_twice_and_none_at_all_are_refused(clock: ManualClock) -> None:
    large = model(clock, "atlas").program

    with pytest.raises(InvalidInput, match="fall back to itself"):
        FallbackProgram({"a": large, "b": large})
    with pytest.raises(InvalidInput, match="at least one"):
        FallbackProgram({})
    with pytest.raises(InvalidInput, match="give signature="):
        FallbackProgram({"a": TypedDefault({})})


def test_limits_on_tokens_and_names_that_do_not_match_are_refused(clock: ManualClock) -> None:
    large = model(clock, "atlas").program
    tokens = EnginePolicy(timeouts=TimeoutPolicy(first_token_s=1.0))

    with pytest.raises(InvalidInput, match="use whole_s"):
        FallbackProgram({"a": large}, Policy("a", {"a": tokens}))
    with pytest.raises(InvalidInput, match="none is given"):
        FallbackProgram({"a": large}, in_order(["b"]))
