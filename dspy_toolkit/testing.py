"""For your own tests: models that fail on command, and a clock that nobody waits for.

lm = faulty_lm(lambda prompt: "[[ ## team ## ]]\\natlas")
lm.faults["model"].stall()
lm.clock.advance(30)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dspy_toolkit.contract import Engine
from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.resilience import (
    EnginePolicy,
    FaultyEngine,
    ManualClock,
    Policy,
    ResilientEngine,
    RetryPolicy,
    WouldHang,
)

__all__ = ["FaultyEngine", "FaultyLM", "ManualClock", "ScriptedEngine", "WouldHang", "faulty_lm"]

Answers = Engine | Callable[[str], str]


class FaultyLM(LocalLM):
    """A language model under test.

    Attributes:
        faults: by engine, what to command: `fail_next`, `slow_next`, `stall`, `garbage_next`,
            `cut_stream_after`, `heal`; and `calls`, how often it was asked.
        clock: the only time that its policy knows.
    """

    faults: Mapping[str, FaultyEngine]
    clock: ManualClock


def faulty_lm(
    answers: Answers | Mapping[str, Answers],
    policy: Policy | None = None,
    clock: ManualClock | None = None,
) -> FaultyLM:
    """A language model that answers as it is told, and fails when it is told.

    Nothing in it waits: who would wait sees the clock go forward instead.

    Args:
        answers: any engine, or a function from the prompt's text to the answer's; by the names
            of the policy, or one alone, which is called "model".
        policy: the one under test. Left out, each call makes one attempt, and another engine is
            never asked.
        clock: shared with other parts of the test.

    Raises:
        InvalidInput: policy and engines do not have the same names.
    """
    given = answers if isinstance(answers, Mapping) else {"model": answers}
    ticking = clock or ManualClock()
    faults = {name: FaultyEngine(_engine(name, each), ticking) for name, each in given.items()}
    engine = ResilientEngine(policy or _plain(list(faults)), faults, clock=ticking)
    lm = FaultyLM("faulty", engine=engine, async_engine=engine.async_twin, cache=False)
    lm.faults = faults
    lm.clock = ticking
    return lm


def _engine(name: str, answers: Answers) -> Engine:
    if callable(answers):
        scripted: Any = ScriptedEngine(answers, name)
        return scripted  # type: ignore[no-any-return]  # an engine without a type of DSPy's
    return answers


def _plain(names: list[str]) -> Policy:
    if len(names) != 1:
        raise InvalidInput(f"with {len(names)} engines, give the policy that says who is asked")
    once = EnginePolicy(retry=RetryPolicy(attempts=1), breaker=None, shedding=None)
    return Policy(names[0], {names[0]: once})
