"""The test mode as a user would use it: no call waits, and no test sleeps."""

from __future__ import annotations

from pathlib import Path

import dspy
import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import RateLimitError, ServerError
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.resilience import BreakerPolicy, EnginePolicy, Policy, TimeoutPolicy
from dspy_toolkit.testing import ManualClock, WouldHang, faulty_lm
from tests.engine.tiny import write_model


def says(team: str) -> str:
    return f"[[ ## team ## ]]\n{team}\n\n[[ ## completed ## ]]"


POLICY = Policy(
    "large",
    {
        "large": EnginePolicy(
            fallback="small",
            timeouts=TimeoutPolicy(whole_s=5.0),
            breaker=BreakerPolicy(window_calls=4, minimum_calls=4, open_s=30.0, probes=1),
        ),
        "small": EnginePolicy(),
    },
)


def test_my_program_answers_while_the_large_model_is_down_and_goes_back_to_it() -> None:
    lm = faulty_lm({"large": lambda _: says("atlas"), "small": lambda _: says("boreas")}, POLICY)
    triage = dspy.Predict("ticket -> team")
    triage.set_lm(lm)

    lm.faults["large"].stall(times=4)
    answers = [triage(ticket="no heat").team for _ in range(3)]
    asked_while_open = lm.faults["large"].calls
    lm.clock.advance(31.0)

    assert answers == ["boreas"] * 3
    assert asked_while_open == 4
    assert triage(ticket="no heat").team == "atlas"


def test_my_program_waits_as_long_as_the_endpoint_asks_and_my_test_does_not() -> None:
    clock = ManualClock()
    policy = Policy("model", {"model": EnginePolicy()}, deadline_s=60.0)
    lm = faulty_lm(lambda _: "hello", policy, clock)
    lm.faults["model"].fail_next(RateLimitError("slow down", retry_after=7.0))
    began = clock.now()

    assert lm("hi") == ["hello"]
    assert clock.now() - began == 7.0


def test_without_a_policy_the_first_failure_is_the_callers() -> None:
    lm = faulty_lm(lambda _: "hello")
    lm.faults["model"].fail_next(ServerError("down"))

    with pytest.raises(dspy.LMServerError, match="down"):
        lm("hi")
    assert lm("hi") == ["hello"]


def test_a_call_without_any_limit_is_told_instead_of_hanging_the_test() -> None:
    lm = faulty_lm(lambda _: "hello")
    lm.faults["model"].stall()

    with pytest.raises(WouldHang, match="no timeout"):
        lm("hi")


def test_any_engine_can_be_made_to_fail_a_real_model_too(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    engine = open_engine(
        str(folder), EngineOptions(max_tokens=4, device="cpu"), Settings(home=tmp_path)
    )
    lm = faulty_lm(engine)
    lm.faults["model"].fail_next(ServerError("down"))

    with pytest.raises(dspy.LMServerError):
        lm("hi")
    answer = lm("hi")
    engine.close()

    assert len(answer) == 1


def test_several_models_need_a_policy() -> None:
    with pytest.raises(InvalidInput, match="give the policy"):
        faulty_lm({"a": lambda _: "a", "b": lambda _: "b"})
