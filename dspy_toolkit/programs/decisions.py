"""A local model as the decision engine of DSPy's System One predictors.

With it in the place of a language model, every output of a signature is a decision: it is weighed,
never written, and thresholds, cuts and weights of the predictor apply to Literal and bool too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

import dspy

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.evidence import record_of_weights
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.weighed import PROBABILITIES

_DESCRIBED = re.compile(r"^\d+\. `(\w+)` \([^\n]*?\): ?(.*)$", re.MULTILINE)


class LocalDecisions:
    """Answers DSPy's decision requests with the probabilities of a local model.

    Questions are asked in one call, in their order; a later one is weighed behind the likeliest
    answers to those before it.

    Args:
        lm: a model whose options can be weighed.
        form: `guided` or `guided_json`, see `prompt_format`.

    Raises:
        InvalidInput: the model's options cannot be weighed.
    """

    supports_decision_requests = True

    def __init__(self, lm: LocalLM, form: str = "guided") -> None:
        if not lm.weighs_options:
            raise InvalidInput(
                f"{lm.model} cannot weigh options; take a local model with a plain memory"
            )
        self.lm = lm
        self.model = lm.model
        self._adapter = prompt_format(form)

    def __call__(self, state: Mapping[str, Any], questions: Mapping[str, Any]) -> dict[str, Any]:
        """Weigh the answers to questions.

        Args:
            state: `instructions`, `input_fields`, `inputs` and maybe `demos`, as DSPy has them.
            questions: by output name, each with `type`, `instructions` and maybe `criteria`.

        Returns:
            By output name: `{"noul": p}`, or `{"probabilities": {...}, "confidence": p}`.
        """
        signature = _signature(state, questions)
        (answer,) = self._adapter(
            self.lm, {PROBABILITIES: True}, signature, _demos(state, signature), state["inputs"]
        )
        return _records(questions, answer)

    async def acall(self, state: Mapping[str, Any], questions: Mapping[str, Any]) -> dict[str, Any]:
        """The same for coroutines."""
        signature = _signature(state, questions)
        (answer,) = await self._adapter.acall(
            self.lm, {PROBABILITIES: True}, signature, _demos(state, signature), state["inputs"]
        )
        return _records(questions, answer)

    def __deepcopy__(self, memo: dict[int, Any]) -> LocalDecisions:
        return self


def _signature(state: Mapping[str, Any], questions: Mapping[str, Any]) -> type[dspy.Signature]:
    described = dict(_DESCRIBED.findall(state["input_fields"]))
    fields: dict[str, Any] = {
        name: (str, dspy.InputField(desc=described.get(name) or None)) for name in state["inputs"]
    }
    for name, question in questions.items():
        fields[name] = (_options(question), dspy.OutputField(desc=_asked(question)))
    made: type[dspy.Signature] = dspy.Signature(fields, state["instructions"])
    return made


def _options(question: Mapping[str, Any]) -> Any:
    if question["type"] == "noul":
        return bool
    criteria = question["criteria"]
    return Literal[tuple(range(len(criteria)) if question["type"] == "score" else criteria)]


def _asked(question: Mapping[str, Any]) -> str:
    """A question's words, with what is said of its options."""
    words, criteria = question["instructions"], question.get("criteria")
    told = words if isinstance(words, str) else json.dumps(words, ensure_ascii=False)
    if isinstance(criteria, list):
        criteria = dict(enumerate(criteria))
    meant = {label: text for label, text in (criteria or {}).items() if text}
    lines = [
        f"{label}: {text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)}"
        for label, text in meant.items()
    ]
    return "\n".join([told, *lines])


def _demos(state: Mapping[str, Any], signature: type[dspy.Signature]) -> list[dict[str, Any]]:
    """Demonstrations with labels as plain values; a decision's record holds its value."""
    return [
        {
            name: each["value"] if isinstance(each, Mapping) and "value" in each else each
            for name, each in demo.items()
            if name in signature.fields
        }
        for demo in state.get("demos", [])
    ]


def _records(questions: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: record_of_weights(question["type"], answer[PROBABILITIES][name])
        for name, question in questions.items()
    }
