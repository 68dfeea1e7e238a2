"""Asking the prompt model for another wording of a task's instructions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import dspy
from dspy.adapters.utils import get_field_description_string, serialize_for_json

_SHOWN = 5


class Reword(dspy.Signature):  # type: ignore[misc]  # DSPy ships no types
    """Write better instructions for a language model that does the task below.

    Say what the task is, how the inputs lead to the outputs, and what is easily got wrong. Keep
    what the current instructions demand. Write the instructions alone.
    """

    basic_instruction: str = dspy.InputField(desc="the current instructions")
    inputs_and_outputs: str = dspy.InputField(desc="the task's inputs and outputs")
    examples: str = dspy.InputField(desc="right answers")
    proposed_instruction: str = dspy.OutputField(desc="the better instructions")


def propose(signature: Any, examples: Sequence[dspy.Example], lm: Any) -> Any:
    """The signature under the instructions that the model proposes, or as it is."""
    told = (get_field_description_string(each) for each in _sides(signature))
    shown = (json.dumps(serialize_for_json(each.toDict())) for each in examples[:_SHOWN])
    with dspy.context(lm=lm, trace=[]):
        found = dspy.Predict(Reword)(
            basic_instruction=signature.instructions,
            inputs_and_outputs="\n".join(told),
            examples="\n".join(shown),
        )
    return signature.with_instructions(found.proposed_instruction or signature.instructions)


def _sides(signature: Any) -> tuple[Any, Any]:
    return signature.input_fields, signature.output_fields
