"""Several versions or models behind one name, and how their answers become one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dspy_toolkit.contract import Engine
from dspy_toolkit.errors import InvalidInput, ToolkitError, nearest
from dspy_toolkit.programs.served import LoadedProgram, ProgramAnswer, ProgramFailed, Streamed
from dspy_toolkit.registry import validate_values
from dspy_toolkit.store.files import sha256_json

COMBINERS = ("vote", "best_probability", "first_valid")
_Combined = tuple[dict[str, Any], dict[str, dict[str, float]]]


class Ensemble:
    """Programs that are asked together, or one after the other, and answer as one.

    `vote` takes for each output what most members say, and of what equally many say, the earliest
    member's. `best_probability` takes for each output the value of the member that was surest of
    it; an output nobody gave a probability for is the first member's. Both ask all members
    together and leave out those that fail. `first_valid` asks one member after the other until
    one gives an answer that fits the signature and is at least `sure` in every decided output.

    Args:
        name: what callers know it by.
        members: at least two, with the same inputs and outputs. Closing this closes them.
        combiner: one of `COMBINERS`.
        sure: for `first_valid`, the least probability of what was decided, in [0, 1].

    Raises:
        InvalidInput: no such combiner, or members that do not go together.
    """

    def __init__(
        self, name: str, members: Sequence[LoadedProgram], combiner: str, sure: float = 0.0
    ) -> None:
        if combiner not in COMBINERS:
            known = nearest(combiner, COMBINERS)
            raise InvalidInput(f"combiner {combiner!r} does not exist; {known}")
        if len(members) < 2:
            raise InvalidInput(f"ensemble {name!r} needs at least two members")
        if not 0.0 <= sure <= 1.0:
            raise InvalidInput(f"sure must lie in [0, 1], got {sure!r}")
        for member in members[1:]:
            if (member.inputs, member.outputs) != (members[0].inputs, members[0].outputs):
                raise InvalidInput(
                    f"ensemble {name!r}: {member.name} has other inputs or outputs than "
                    f"{members[0].name}"
                )
        self.name = name
        self.members = tuple(members)
        self.combiner = combiner
        self._sure = sure

    @property
    def version(self) -> str:
        """Names the members' versions and how they are combined."""
        parts = [[each.name, each.version] for each in self.members]
        return sha256_json([self.combiner, self._sure, parts])[:12]

    @property
    def primary(self) -> str:
        """No engine alone answers, and nothing stands in for another."""
        return self.combiner

    @property
    def engines(self) -> dict[str, Engine]:
        """What the members ask, by the names that events use."""
        return {name: engine for each in self.members for name, engine in each.engines.items()}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input fields."""
        return self.members[0].inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output fields."""
        return self.members[0].outputs

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of the inputs."""
        return self.members[0].input_schema

    @property
    def output_schema(self) -> dict[str, Any]:
        """JSON Schema of the outputs."""
        return self.members[0].output_schema

    async def call(self, values: Mapping[str, Any], weigh: bool = False) -> ProgramAnswer:
        """Answer one set of inputs.

        Args:
            values: JSON values by input field.
            weigh: as of `LoadedProgram.call`; what the combiner needs is measured in any case.

        Raises:
            InvalidInput: a field is missing, unknown or does not fit.
            ProgramFailed: no member gave a usable answer.
        """
        self.members[0].artifact.check(values)
        if self.combiner == "first_valid":
            return await self._first_valid(values, weigh or self._sure > 0.0)
        answers = await self._ask_all(values, weigh or self.combiner == "best_probability")
        combine = vote if self.combiner == "vote" else surest
        outputs, chances = combine([answer for _, answer in answers])
        return _joined(outputs, chances, answers)

    async def stream(self, values: Mapping[str, Any]) -> AsyncGenerator[Streamed, None]:
        """Answer with the whole at once: nothing is decided before every member has spoken."""
        yield await self.call(values)

    def close(self) -> None:
        """Give the members' models back."""
        for each in self.members:
            each.close()

    async def _ask_all(
        self, values: Mapping[str, Any], weigh: bool
    ) -> list[tuple[str, ProgramAnswer]]:
        tasks = [asyncio.ensure_future(each.call(values, weigh)) for each in self.members]
        try:
            found = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
        answers: list[tuple[str, ProgramAnswer]] = []
        failure: ToolkitError | None = None
        for member, each in zip(self.members, found, strict=True):
            if isinstance(each, ProgramAnswer):
                answers.append((member.name, each))
            elif isinstance(each, ToolkitError):
                failure = failure or each
            else:
                raise each
        if failure is not None and not answers:
            raise failure
        return answers

    async def _first_valid(self, values: Mapping[str, Any], weigh: bool) -> ProgramAnswer:
        failure: ToolkitError | None = None
        asked: list[tuple[str, ProgramAnswer]] = []
        for member in self.members:
            try:
                answer = await member.call(values, weigh)
                asked.append((member.name, answer))
                if member.artifact.signature is not None:
                    validate_values(member.artifact.signature, "outputs", answer.outputs)
            except ToolkitError as error:
                failure = error
                continue
            if all(max(each.values()) >= self._sure for each in answer.probabilities.values()):
                joined = _joined(answer.outputs, answer.probabilities, asked)
                return replace(joined, answered_by=(member.name,))
        raise failure or ProgramFailed("unusable", "no member was sure enough of its answer")


def vote(answers: Sequence[ProgramAnswer]) -> _Combined:
    """What most say of each output, and each value's share of the votes."""
    outputs: dict[str, Any] = {}
    shares: dict[str, dict[str, float]] = {}
    for name in answers[0].outputs:
        said = {sha256_json(each.outputs.get(name)): each.outputs.get(name) for each in answers}
        counts = Counter(sha256_json(each.outputs.get(name)) for each in answers)
        # `most_common` keeps the order of first appearance among equals.
        outputs[name] = said[counts.most_common(1)[0][0]]
        shares[name] = {str(said[key]): count / len(answers) for key, count in counts.items()}
    return outputs, shares


def surest(answers: Sequence[ProgramAnswer]) -> _Combined:
    """For each output the value of whoever was surest of it, with that one's probabilities."""
    outputs: dict[str, Any] = {}
    chances: dict[str, dict[str, float]] = {}
    for name in answers[0].outputs:
        best = answers[0]
        for each in answers[1:]:
            if _sureness(each, name) > _sureness(best, name):
                best = each
        outputs[name] = best.outputs.get(name)
        if name in best.probabilities:
            chances[name] = best.probabilities[name]
    return outputs, chances


def _sureness(answer: ProgramAnswer, name: str) -> float:
    return max(answer.probabilities.get(name, {}).values(), default=0.0)


def _joined(
    outputs: dict[str, Any],
    chances: dict[str, dict[str, float]],
    answers: Sequence[tuple[str, ProgramAnswer]],
) -> ProgramAnswer:
    return ProgramAnswer(
        outputs=outputs,
        probabilities=chances,
        answered_by=tuple(name for name, _ in answers),
        input_tokens=sum(answer.input_tokens for _, answer in answers),
        output_tokens=sum(answer.output_tokens for _, answer in answers),
    )
