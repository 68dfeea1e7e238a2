"""The work that engines are measured by: DSPy calls as they come in an evaluation."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal

import dspy
from dspy import lm15

from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.guided import answer_format

_WORDS = (
    "order ticket policy refund late team parcel urgent invoice account driver broken screen "
    "warehouse yesterday street question answer support customer payment email letter number"
).split()
# Of a demonstration's ticket: twelve of them make a prefix of about 1,400 of the embedded
# model's tokens.
_DEMO_WORDS = 100


class Classify(dspy.Signature):  # type: ignore[misc]  # DSPy ships no types
    """Decide how urgent the customer's ticket is."""

    ticket: str = dspy.InputField()
    urgency: Literal["low", "medium", "high"] = dspy.OutputField()


class Reason(dspy.Signature):  # type: ignore[misc]
    """Think about the customer's ticket, then decide how urgent it is."""

    ticket: str = dspy.InputField()
    reasoning: str = dspy.OutputField(max_length=200)
    urgency: Literal["low", "medium", "high"] = dspy.OutputField()


class Extract(dspy.Signature):  # type: ignore[misc]
    """Read what the customer's ticket says."""

    ticket: str = dspy.InputField()
    amount: int = dspy.OutputField(ge=0, le=999)
    paid: bool = dspy.OutputField()
    team: Literal["atlas", "billing", "support"] = dspy.OutputField()
    parts: list[Literal["screen", "cable", "case"]] = dspy.OutputField(max_length=2)


@dataclass(frozen=True)
class Workload:
    """Calls of one signature that share their demonstrations.

    Attributes:
        signature: what is asked.
        demos: how many demonstrations stand before each input.
        free_tokens: about how many tokens of an answer the model is free in.
    """

    name: str
    signature: Any
    demos: int
    free_tokens: int

    def requests(self, count: int, seed: int, held: bool, **config: Any) -> list[lm15.Request]:
        """Calls whose inputs differ; another seed has other demonstrations.

        Args:
            count: how many.
            seed: of demonstrations and inputs.
            held: whether answers are held to the signature's grammar.
            config: of the requests, `max_tokens` for example.
        """
        chance = random.Random(seed)
        demos = [self._example(chance) for _ in range(self.demos)]
        inputs = [{"ticket": _ticket(chance, chance.randint(25, 40))} for _ in range(count)]
        if held:
            inner = answer_format(self.signature)["json_schema"]
            config = {"response_format": {"type": "json_schema", **inner}, **config}
        return [self._request(demos, each, config) for each in inputs]

    def _request(
        self, demos: list[dict[str, Any]], inputs: dict[str, Any], config: dict[str, Any]
    ) -> lm15.Request:
        system, *turns = prompt_format("chat").format(self.signature, demos, inputs)
        roles = {"user": lm15.Message.user, "assistant": lm15.Message.assistant}
        return lm15.Request(
            model="under-test",
            system=system["content"],
            messages=tuple(roles[turn["role"]](turn["content"]) for turn in turns),
            config=lm15.Config(temperature=0.0, **config),
        )

    def answer(self, seed: int = 0) -> str:
        """An answer of the usual length."""
        example = self._example(random.Random(seed))
        return str(prompt_format("chat").format_assistant_message_content(self.signature, example))

    def _example(self, chance: random.Random) -> dict[str, Any]:
        values = {
            "ticket": _ticket(chance, _DEMO_WORDS),
            "reasoning": _ticket(chance, 56),
            "urgency": chance.choice(["low", "medium", "high"]),
            "amount": chance.randint(100, 999),
            "paid": chance.random() < 0.5,
            "team": chance.choice(["atlas", "billing", "support"]),
            "parts": ["screen", "cable"],
        }
        return {name: values[name] for name in self.signature.fields}


def _ticket(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words)).capitalize() + "."


CLASSIFY = Workload("W1 classification", Classify, demos=12, free_tokens=1)
REASON = Workload("W2 chain of thought", Reason, demos=6, free_tokens=60)
EXTRACT = Workload("W3 extraction", Extract, demos=6, free_tokens=12)
