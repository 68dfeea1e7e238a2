"""The policy where it is meant to stand: under `dspy.LM`."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

from dspy_toolkit.contract import InvalidRequestError, ServerError
from dspy_toolkit.resilience import (
    EnginePolicy,
    FaultyEngine,
    FixedAnswer,
    ManualClock,
    Policy,
    ResilientEngine,
)


@pytest.fixture
def faulty(clock: ManualClock) -> FaultyEngine:
    return FaultyEngine(FixedAnswer("[[ ## team ## ]]\natlas\n\n[[ ## completed ## ]]"), clock)


@pytest.fixture
def lm(faulty: FaultyEngine, clock: ManualClock) -> dspy.LM:
    policy = Policy("local", {"local": EnginePolicy()}, deadline_s=60.0)
    engine = ResilientEngine(policy, {"local": faulty}, clock=clock)
    return dspy.LM(
        "mlx/x", engine=engine, async_engine=engine.async_twin, num_retries=0, cache=False
    )


def test_a_program_answers_through_faults_and_nothing_is_tried_twice_over(
    lm: dspy.LM, faulty: FaultyEngine
) -> None:
    faulty.fail_next(ServerError("down"), times=2)
    program = dspy.Predict("ticket -> team")
    with dspy.context(lm=lm):
        threads = program(ticket="no heat").team
        faulty.fail_next(ServerError("down"), times=2)
        coroutines = asyncio.run(program.acall(ticket="no heat")).team

    assert (threads, coroutines) == ("atlas", "atlas")
    assert faulty.calls == 6


def test_dspy_hands_the_policys_errors_on_by_their_kind(
    lm: dspy.LM, faulty: FaultyEngine, clock: ManualClock
) -> None:
    faulty.stall(times=9)
    with pytest.raises(dspy.LMTimeoutError, match="'local' gave no answer within 60 s"):
        lm("hello")
    faulty.heal()
    faulty.fail_next(InvalidRequestError("bad"))
    with pytest.raises(dspy.LMInvalidRequestError, match="bad"):
        lm("hello")

    assert faulty.calls == 2


def test_a_streamed_program_is_guarded_too(lm: dspy.LM, faulty: FaultyEngine) -> None:
    faulty.fail_next(ServerError("down"), times=2)
    program = dspy.streamify(
        dspy.Predict("ticket -> team"),
        stream_listeners=[dspy.streaming.StreamListener(signature_field_name="team")],
    )

    async def run() -> list[Any]:
        with dspy.context(lm=lm):
            return [piece async for piece in program(ticket="no heat")]

    pieces = asyncio.run(run())

    assert pieces[-1].team == "atlas"
    assert faulty.calls == 3
