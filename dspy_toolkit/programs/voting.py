"""Several programs that answer together: in each field, what most of them say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import dspy
from dspy.adapters.utils import serialize_for_json


class Voting(dspy.Module):  # type: ignore[misc]  # DSPy ships no types
    """Asks every program and takes the majority's value of each field.

    In a tie the program that stands first wins. A program without an answer has no vote.

    Args:
        programs: the best first.
    """

    def __init__(self, programs: Sequence[dspy.Module]) -> None:
        super().__init__()
        self.programs = list(programs)

    def forward(self, **inputs: Any) -> dspy.Prediction:
        answers, failure = [], None
        for program in self.programs:
            try:
                answers.append(program(**inputs))
            except dspy.DSPyError as error:
                failure = failure or error
        if failure is not None and not answers:
            raise failure
        return elected(answers)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        answers, failure = [], None
        for program in self.programs:
            try:
                answers.append(await program.acall(**inputs))
            except dspy.DSPyError as error:
                failure = failure or error
        if failure is not None and not answers:
            raise failure
        return elected(answers)


def elected(answers: Sequence[dspy.Prediction]) -> dspy.Prediction:
    """One answer out of several: in each field the value given most often, the earliest in a tie.

    Values are compared as JSON, texts without their case and outer blanks.
    """
    return dspy.Prediction(
        **{name: _most([each[name] for each in answers if name in each]) for name in answers[0]}
    )


def _most(values: Sequence[Any]) -> Any:
    keys = [_key(value) for value in values]
    counts = Counter(keys)
    # max takes the first of equals.
    return values[keys.index(max(keys, key=counts.__getitem__))]


def _key(value: Any) -> str:
    text = json.dumps(serialize_for_json(value), sort_keys=True, ensure_ascii=False)
    return text.strip('" ').casefold() if isinstance(value, str) else text
