"""Rows that look back at shared stretches get the scores of a model that reads each row alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_map
from mlx_lm.models.llama import Attention, Model, ModelArgs

from dspy_toolkit.engine import rotary
from dspy_toolkit.engine.prefix_tree import PrefixTree
from dspy_toolkit.engine.rotary import Rotary
from dspy_toolkit.engine.runner import LastToken, Runner, Unshareable
from dspy_toolkit.engine.stretches import Lent, Stretch, split_stretch, stretch_bytes

VOCABULARY = 50
CLOSE = 2e-4


@pytest.fixture(autouse=True)
def on_cpu() -> Iterator[None]:
    with mx.stream(mx.cpu):
        yield


SLIDING = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 9}


def new_model(**more: Any) -> Model:
    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCABULARY,
        **more,
    }
    model = Model(ModelArgs.from_dict(config))
    key = iter(mx.random.split(mx.random.key(3), 64))
    model.update(
        tree_map(
            lambda p: p if p.ndim == 1 else 0.3 * mx.random.normal(p.shape, key=next(key)),
            model.parameters(),
        )
    )
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="module")
def model() -> Model:
    with mx.stream(mx.cpu):
        return new_model()


@pytest.fixture(scope="module")
def sliding() -> Model:
    with mx.stream(mx.cpu):
        return new_model(**SLIDING)


class Desk:
    """Rows over one tree, driven by hand."""

    def __init__(self, model: Model, least: int = 20) -> None:
        self.least = least
        self.runner = Runner(model, cpu=True)
        self.slots = self.runner.slots
        self.tree: PrefixTree[Stretch] = PrefixTree(1 << 30, stretch_bytes, split_stretch)
        self.rows: dict[int, list[int]] = {}

    def seat(self, tokens: list[int]) -> int:
        """Seat a row that has read nothing beyond what is stored."""
        hold = self.tree.hold(tokens[:-1])
        slot = self.slots.take(Lent(hold, least=self.least))
        self.rows[slot] = tokens
        return slot

    def seen(self, slot: int) -> int:
        return self.slots.behind(slot) + (self.slots.lengths[slot] or 0)

    def run(self, shares: dict[int, int]) -> dict[int, np.ndarray]:
        """Let rows take so many of their tokens; the scores after the last of each."""
        chosen = sorted(shares)
        tokens = [self.rows[slot][self.seen(slot) :][: shares[slot]] for slot in chosen]
        logits = self.runner.run(chosen, tokens)
        mx.eval(logits)
        return dict(zip(chosen, np.array(logits), strict=True))

    def store(self, slot: int) -> None:
        done, behind = self.seen(slot), self.slots.behind(slot)
        self.tree.insert(
            self.rows[slot][:done],
            lambda begin: self.slots.copy(slot, begin - behind, done - behind),
        )

    def leave(self, slot: int) -> None:
        self.slots.free(slot)
        del self.rows[slot]


@settings(max_examples=20, deadline=None)
@given(chance=st.randoms(use_true_random=False))
@pytest.mark.parametrize(("kind", "least"), [("plain", 20), ("plain", 1 << 30), ("sliding", 1)])
def test_scores_are_those_of_each_row_alone_whatever_rows_share_and_in_whatever_steps(
    kind: str, least: int, model: Model, sliding: Model, chance: random.Random
) -> None:
    model = sliding if kind == "sliding" else model
    desk = Desk(model, least)
    desk.runner.least_padding = chance.choice([1, 1 << 30])
    stems = [[chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 60))] for _ in range(3)]
    for _ in range(12):
        if len(desk.rows) < 6 and chance.random() < 0.7:
            stem = [token for _ in range(2) for token in chance.choice(stems)]
            own = [chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 20))]
            desk.seat(stem[: chance.randint(0, len(stem))] + own)
        left = {slot: len(row) - desk.seen(slot) for slot, row in desk.rows.items()}
        chosen = {slot: chance.randint(1, n) for slot, n in left.items() if n}
        chosen = {slot: n for slot, n in chosen.items() if chance.random() < 0.8}
        if chosen:
            for slot, scores in desk.run(chosen).items():
                alone = model(mx.array([desk.rows[slot][: desk.seen(slot)]]))[0, -1]

                assert np.allclose(scores, np.array(alone), atol=CLOSE)
        for slot in list(desk.rows):
            if chance.random() < 0.4 and desk.seen(slot):
                desk.store(slot)
            if chance.random() < 0.2:
                desk.leave(slot)


def test_what_rows_share_lies_in_memory_once(model: Model) -> None:
    desk = Desk(model)
    prefix = [n % VOCABULARY for n in range(1000)]
    first = desk.seat([*prefix, 1])
    desk.run({first: 1001})
    desk.store(first)
    desk.leave(first)
    others = [desk.seat([*prefix, 2, n]) for n in range(8)]
    desk.run(dict.fromkeys(others, 2))
    one_row = 2 * 2 * 2 * 8 * 4 * 1000

    assert desk.tree.stored_bytes == pytest.approx(one_row, rel=0.01)
    # Eight rows with room for two tokens and what slots grow by.
    assert sum(array.nbytes for array in desk.slots.arrays()) < 1.1 * one_row
    assert [desk.slots.behind(slot) for slot in others] == [1000] * 8


def test_a_row_may_forget_what_it_tried(model: Model) -> None:
    desk = Desk(model)
    slot = desk.seat([1, 2, 3, 4, 5])
    desk.run({slot: 3})
    tried = desk.run({slot: 1})[slot]
    desk.slots.advance(slot, -1)

    assert np.allclose(desk.run({slot: 1})[slot], tried, atol=CLOSE)


def test_scores_after_every_token_can_be_had(model: Model) -> None:
    runner = Runner(model, cpu=True)
    rows = [[1, 2, 3, 4], [5, 6]]
    scores = np.array(runner.run([runner.slots.take() for _ in rows], rows, every=True))

    for row, got in zip(rows, scores, strict=True):
        alone = np.array(model(mx.array([row]))[0])

        assert np.allclose(got[: len(row)], alone, atol=CLOSE)


class OwnAttention(Attention):  # type: ignore[misc]  # mlx-lm ships no types
    """Attends without mlx-lm's common function."""

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> Any:
        rows, width, _ = x.shape
        queries, keys, values = (
            part(x).reshape(rows, width, heads, -1).transpose(0, 2, 1, 3)
            for part, heads in (
                (self.q_proj, self.n_heads),
                (self.k_proj, self.n_kv_heads),
                (self.v_proj, self.n_kv_heads),
            )
        )
        offset = 0 if cache is None else cache.offset
        queries, keys = self.rope(queries, offset=offset), self.rope(keys, offset=offset)
        keys, values = cache.update_and_fetch(keys, values)
        out = mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=self.scale, mask=mask
        )
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(rows, width, -1))


def test_a_model_that_attends_in_its_own_way_gets_copies_and_says_so() -> None:
    model = new_model()
    for layer in model.layers:
        weights = layer.self_attn.parameters()
        layer.self_attn = OwnAttention(model.args)
        layer.self_attn.update(weights)
    runner = Runner(model, cpu=True)

    assert runner.copies == "its attention does not go through mlx-lm's common function"


def test_a_model_whose_positions_come_out_wrong_is_refused_and_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, prompt = new_model(), mx.array([[1, 2, 3, 4]])
    before = np.array(model(prompt))

    def unturned(*asked: Any) -> tuple[mx.array, mx.array]:
        return mx.array(1.0), mx.array(0.0)

    monkeypatch.setattr(rotary, "_table", unturned)
    with pytest.raises(Unshareable, match="answers otherwise"):
        Runner(model, cpu=True)

    assert not any(isinstance(part, LastToken | Rotary) for part in model.modules())
    assert np.array_equal(np.array(model(prompt)), before)


def test_each_step_has_an_offset_of_its_own(model: Model) -> None:
    slots = Runner(model, cpu=True).slots
    rows = [slots.take(), slots.take()]
    slots.advance(rows[0], 3)
    slots.aim(rows, 1)
    first = slots.offset
    slots.aim(rows, 1)

    assert isinstance(first, mx.array)
    assert slots.offset is not first
