"""The scheduler over a real model: arrivals, departures and short memory in any order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.llama import Model

from dspy_toolkit.engine.device import Device
from dspy_toolkit.engine.options import EngineOptions
from dspy_toolkit.engine.output import Markers, OutputReader
from dspy_toolkit.engine.runner import Runner
from dspy_toolkit.engine.sampling import Sampling
from dspy_toolkit.engine.sequence import Finished, Message, Sequence
from dspy_toolkit.engine.step import Stepper
from tests.engine.test_slots import SLIDING, VOCABULARY, new_model
from tests.engine.test_worker import Letters

EOS = 0
CPU = Device("cpu", mx.cpu, "float32", 1 << 30)


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, Model]]:
    with mx.stream(mx.cpu):
        yield {"plain": new_model(), "sliding": new_model(**SLIDING)}


def new_sequence(prompt: list[int], max_tokens: int) -> Sequence:
    heard: list[Message] = []
    return Sequence(
        prompt=prompt,
        sampling=Sampling(),
        max_tokens=max_tokens,
        eos=frozenset({EOS}),
        reader=OutputReader(Letters(), Markers()),
        sink=heard.append,
    )


def by_itself(model: Model, prompt: list[int], max_tokens: int) -> list[int]:
    cache, unread, answer = make_prompt_cache(model), prompt, list[int]()
    while len(answer) < max_tokens and EOS not in answer:
        unread = [int(np.array(model(mx.array([unread]), cache=cache)[0, -1]).argmax())]
        answer += unread
    return answer


@dataclass
class Office:
    """A stepper, and what has become of the sequences given to it."""

    stepper: Stepper
    open: list[Sequence] = field(default_factory=list)
    done: list[Sequence] = field(default_factory=list)

    def add(self, sequence: Sequence) -> None:
        self.stepper.add(sequence)
        self.open.append(sequence)

    def leave(self, sequence: Sequence) -> None:
        self.stepper.remove(sequence)
        self.open.remove(sequence)

    def step(self) -> None:
        for sequence, drawn in self.stepper.step():
            if isinstance(sequence.accept(drawn), Finished):
                self.leave(sequence)
                self.done.append(sequence)


@settings(max_examples=12, deadline=None)
@given(chance=st.randoms(use_true_random=False))
@pytest.mark.parametrize("which", ["plain", "sliding"])
def test_every_row_gets_its_own_tokens_and_nothing_is_left_over(
    which: str, models: dict[str, Model], chance: random.Random
) -> None:
    model = models[which]
    token_bytes = 2 * 2 * 2 * 8 * 4
    options = EngineOptions(
        rows=chance.choice([1, 3, 8]),
        prefill_rows=chance.choice([1, 4]),
        prefill_tokens=chance.choice([3, 16, 256]),
        prefix_bytes=chance.choice([0, 60, 400]) * token_bytes,
        row_bytes=chance.choice([128, 512, 4096]) * token_bytes,
    )
    office = Office(Stepper(Runner(model, cpu=True), options, CPU))
    stems = [[chance.randint(1, VOCABULARY - 1) for _ in range(60)] for _ in range(3)]
    came = left = 0
    for _ in range(40):
        if came < 14 and chance.random() < 0.5:
            prompt = chance.choice(stems)[: chance.randint(0, 60)]
            prompt = prompt + [
                chance.randint(1, VOCABULARY - 1) for _ in range(chance.randint(1, 9))
            ]
            office.add(new_sequence(prompt, chance.randint(1, 12)))
            came += 1
        if office.open and chance.random() < 0.1:
            office.leave(chance.choice(office.open))
            left += 1
        office.step()
    # Each step takes every decoding row and the oldest unread one further, so this is far more
    # than enough unless someone starves.
    for _ in range(14 * (70 + 12)):
        if not office.open:
            break
        office.step()

    assert not office.open
    assert len(office.done) == came - left
    assert office.stepper._runner.slots.lengths == []
    assert not [node for node in office.stepper._tree._order if node.holds]
    assert office.stepper._tree.stored_bytes <= (options.prefix_bytes or 0)
    for sequence in office.done:
        assert sequence.answer == by_itself(model, sequence.prompt, sequence.max_tokens)


def test_a_long_prompt_does_not_hold_up_rows_that_decode(models: dict[str, Model]) -> None:
    options = EngineOptions(prefill_tokens=8, prefix_bytes=0)
    office = Office(Stepper(Runner(models["plain"], cpu=True), options, CPU))
    talks = new_sequence([3, 4], 40)
    office.add(talks)
    office.step()
    office.add(new_sequence([7] * 160, 1))
    progress = []
    while len(office.open) > 1:
        before = len(talks.answer)
        office.step()
        progress.append(len(talks.answer) - before)

    assert set(progress) == {1}
    assert len(progress) > 15
