"""A program whose demonstrations are chosen for each question: those most like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.adapters.utils import serialize_for_json
from dspy.predict.parameter import Parameter

from dspy_toolkit.programs.neighbours import TextIndex


@dataclass(frozen=True)
class Shown:
    """One worked example.

    Attributes:
        inputs: the question, by input field, as JSON values.
        demos: the demonstrations it makes, by predictor.
    """

    inputs: Mapping[str, Any]
    demos: Mapping[str, Mapping[str, Any]]


class Pool(Parameter):  # type: ignore[misc]  # DSPy ships no types
    """Worked examples to choose from; part of the program's saved state."""

    def __init__(self, shown: Sequence[Shown] = ()) -> None:
        self._fill(shown)

    def _fill(self, shown: Sequence[Shown]) -> None:
        self.shown = tuple(shown)
        self._index = TextIndex([_text(each.inputs) for each in self.shown])

    def nearest(self, inputs: Mapping[str, Any], k: int) -> list[Shown]:
        """The `k` examples most like a question, the most alike last, next to the question."""
        asked = serialize_for_json(dict(inputs))
        return [self.shown[number] for number in self._index.nearest(_text(asked), k)][::-1]

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """As DSPy saves parameters."""
        return {"shown": [{"inputs": each.inputs, "demos": each.demos} for each in self.shown]}

    def load_state(self, state: dict[str, Any], **_given: Any) -> Pool:
        """As DSPy loads parameters."""
        self._fill([Shown(each["inputs"], each["demos"]) for each in state["shown"]])
        return self

    def reset(self) -> None:
        """Forget all."""
        self._fill(())

    def __deepcopy__(self, memo: dict[int, Any]) -> Pool:
        return Pool(self.shown)


class Nearest(dspy.Module):  # type: ignore[misc]  # DSPy ships no types
    """Shows a program the worked examples that are most like the question.

    Args:
        program: what answers.
        k: demonstrations shown.
        pool: worked examples to choose from.
    """

    def __init__(self, program: dspy.Module, k: int, pool: Pool | None = None) -> None:
        super().__init__()
        self.program = program
        self.k = k
        self.pool = Pool() if pool is None else pool

    def forward(self, **inputs: Any) -> Any:
        return self.shown_for(inputs)(**inputs)

    async def aforward(self, **inputs: Any) -> Any:
        return await self.shown_for(inputs).acall(**inputs)

    def shown_for(self, inputs: Mapping[str, Any]) -> Any:
        """A copy of the program with the demonstrations for these inputs."""
        # A copy for each question, since several are answered at once.
        program = self.program.deepcopy()
        chosen = self.pool.nearest(inputs, self.k)
        for name, predictor in program.named_predictors():
            predictor.demos = [
                dspy.Example(**each.demos[name]) for each in chosen if name in each.demos
            ]
        return program


def _text(inputs: Mapping[str, Any]) -> str:
    return " | ".join(f"{name}: {inputs[name]}" for name in sorted(inputs))
