"""A prompt model that is a function: writes the proposals DSPy's optimizers ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.programs.lm import LocalLM

INSTRUCTION = "Even numbers go to atlas, odd ones to comet."
"""What a proposal says when it knows the task."""


class Proposer:
    """Answers every request for a proposal, in the format it is asked in.

    Args:
        broken: numbers of the answers that cannot be read, counted from 0.
    """

    def __init__(self, broken: Collection[int] = ()) -> None:
        self._broken = broken
        self.answers = 0

    def __call__(self, request: str) -> str:
        number = self.answers
        self.answers += 1
        if number in self._broken:
            return "I would rather not say."
        # As the numbers of the answers, what is proposed must not depend on the threads.
        values = {name: _value(name, len(request)) for name in _asked(request)}
        if "JSON object" in request:
            return json.dumps(values)
        parts = [f"[[ ## {name} ## ]]\n{_text(value)}" for name, value in values.items()]
        return "\n\n".join([*parts, "[[ ## completed ## ]]"])


def proposer_lm(proposer: Proposer) -> LocalLM:
    """The proposer as a language model."""
    engine = ScriptedEngine(proposer, name="proposer")
    return LocalLM(engine.model_string, engine=engine, async_engine=engine.async_twin, cache=False)


def _asked(request: str) -> list[str]:
    """The output fields of a request's last turn, in DSPy's wording."""
    told = request.rpartition("Respond with ")[2]
    return re.findall(r"`(?:\[\[ ## )?(\w+)(?: ## \]\])?`", told.partition("ending with")[0])


def _value(name: str, size: int) -> object:
    if name == "module_advice":
        return {"self": INSTRUCTION}
    if name.startswith("proposed_prefix"):
        return "Answer:"
    if name in ("proposed_instruction", "new_instruction", "natural_language_rules"):
        return INSTRUCTION if size % 2 else f"Say which team takes it, in {size % 7} steps."
    return INSTRUCTION


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
