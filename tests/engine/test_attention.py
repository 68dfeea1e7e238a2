from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.engine.attention import Shared, attend
from dspy_toolkit.engine.blocks import attend_blocks, can_block
from dspy_toolkit.engine.cpu_math import gate, softmax_parts
from dspy_toolkit.engine.prefix_tree import PrefixTree
from dspy_toolkit.engine.stretches import Lent, Span, Stretch, spans

SIZE = 16
CLOSE = 2e-6


@pytest.fixture(autouse=True)
def on_cpu() -> Any:
    with mx.stream(mx.cpu):
        yield


def normal(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


@pytest.mark.parametrize("numpy", [False, True])
@pytest.mark.parametrize("mask", [None, "causal", "bool"])
@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize("width", [1, 7, 80])
def test_it_agrees_with_mlx_to_rounding(
    mask: str | None, heads: int, shared: int, width: int, numpy: bool
) -> None:
    rows, places = 3, 130
    queries = 3 * normal(1, rows, heads, width, SIZE)
    # As the engine has them: slices of something larger.
    keys, values = (normal(n, rows, shared, 200, SIZE)[:, :, :places] for n in (2, 3))
    seen: mx.array | str | None = mask
    if mask == "bool":
        own = mx.array([40, 0, 50])[:, None, None, None] + mx.arange(width)[None, None, :, None]
        seen = mx.arange(places)[None, None, None] <= own
    usual = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.25, mask=seen)
    ours = attend(queries, keys, values, 0.25, seen, numpy=numpy)

    assert ours.shape == usual.shape
    assert np.allclose(np.array(ours), np.array(usual), atol=CLOSE)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    users=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5),
    width=st.integers(1, 5),
    numpy=st.booleans(),
    groups=st.sampled_from([1, 3]),
)
def test_shared_stretches_count_as_if_each_row_had_them_for_itself(
    lengths: list[int], users: list[list[bool]], width: int, numpy: bool, groups: int
) -> None:
    rows, heads, places = len(users), 2, 6
    queries = 2 * normal(1, rows, heads * groups, width, SIZE)
    keys, values = (normal(n, rows, heads, places, SIZE) for n in (2, 3))
    stretches = [
        (normal(n, 1, heads, length, SIZE), normal(n + 100, 1, heads, length, SIZE))
        for n, length in enumerate(lengths, start=10)
    ]
    used = [[row for row in range(rows) if users[row][n]] for n in range(len(lengths))]
    shared = [
        Shared(None if len(who) == rows else who, *stretch)
        for who, stretch in zip(used, stretches, strict=True)
        if who
    ]
    ours = np.array(attend(queries, keys, values, 0.25, "causal", shared, numpy))

    for row in range(rows):
        mine = [stretch for who, stretch in zip(used, stretches, strict=True) if row in who]
        alone = mx.fast.scaled_dot_product_attention(
            queries[row : row + 1],
            mx.concatenate([*(k for k, _ in mine), keys[row : row + 1]], axis=2),
            mx.concatenate([*(v for _, v in mine), values[row : row + 1]], axis=2),
            scale=0.25,
            mask="causal",
        )

        assert np.allclose(ours[row], np.array(alone)[0], atol=CLOSE)


def test_half_precision_comes_back_in_half_precision_and_close() -> None:
    queries, keys, values = (normal(n, 2, 2, 1, SIZE) for n in range(3))
    shared = [Shared(None, normal(3, 1, 2, 50, SIZE), normal(4, 1, 2, 50, SIZE))]
    exact = attend(queries, keys, values, 0.25, None, shared)
    halves = [
        Shared(None, s.keys.astype(mx.bfloat16), s.values.astype(mx.bfloat16)) for s in shared
    ]
    short, *both = (a.astype(mx.bfloat16) for a in (queries, keys, values))
    ours = attend(short, both[0], both[1], 0.25, None, halves)

    assert ours.dtype == mx.bfloat16
    assert np.allclose(np.array(ours.astype(mx.float32)), np.array(exact), atol=0.03)


def test_spans_part_a_stretch_where_the_first_of_its_users_end() -> None:
    long: Stretch = []
    tree = PrefixTree[Stretch](1 << 10, cost=lambda _: 1, split=lambda s, at: (s, s))
    tree.insert(list(range(10)), lambda begin: long)
    lent = [Lent(tree.hold(list(range(end))), least=2) for end in (8, 10, 8)]

    assert spans(lent) == [Span(None, long, 0, 8), Span([1], long, 8, 10)]
    assert spans([None, lent[0]]) == [Span([1], long, 0, 8)]


tokens = st.lists(st.integers(0, 1), min_size=1, max_size=12)


@given(st.lists(tokens, min_size=1, max_size=5), st.lists(tokens, min_size=1, max_size=6))
def test_each_row_looks_back_once_at_what_is_stored_of_it_or_has_a_copy(
    stored: list[list[int]], rows: list[list[int]]
) -> None:
    # A stretch here is the list of its tokens.
    tree: Any = PrefixTree[Any](1 << 10, len, lambda stretch, at: (stretch[:at], stretch[at:]))
    lent = [Lent(tree.hold([]), least=3)]
    for before, mine in zip([*stored, *stored], rows, strict=False):
        lent.append(Lent(tree.hold(mine), least=3))
        tree.insert(before, partial(_from, before))
    lent += [Lent(tree.hold(mine), least=3) for mine in rows]
    seen: list[list[Any]] = [[t for s, n in each.copied for t in s[:n]] for each in lent]
    for span in spans(lent):
        for place in range(len(lent)) if span.rows is None else span.rows:
            seen[place] += span.stretch[span.begin : span.end]

    for each, found in zip(lent, seen, strict=True):
        held: list[Any] = [t for part in each._hold.parts for t in part.payload[: part.used]]

        assert sorted(found) == sorted(held)
        assert each.length + sum(n for _, n in each.copied) == len(held)


def _from(tokens: list[int], begin: int) -> list[int]:
    return tokens[begin:]


@pytest.mark.parametrize("rows", [1, 3000])
def test_exponentials_and_gates_are_those_of_mlx(rows: int) -> None:
    scores = 20 * normal(1, rows, 400)
    gates, values = 50 * normal(2, rows, 400), normal(3, rows, 400)
    softmax = mx.softmax(scores, axis=-1)
    silu = nn.silu(gates) * values
    mx.eval(scores, gates, values, softmax, silu)
    top, total = softmax_parts(scores)

    assert np.allclose(np.array(scores) / total, np.array(softmax), atol=CLOSE)
    assert top.shape == total.shape == (rows, 1)
    assert np.allclose(np.array(gate(gates, values)), np.array(silu), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not can_block(), reason="needs MKL")
@pytest.mark.parametrize("tokens", [1, 700, 3000])
@pytest.mark.parametrize("queries", [1, 333])
def test_blocks_give_what_all_scores_at_once_do(queries: int, tokens: int) -> None:
    asked = 2 * normal(1, 1, 3, queries, SIZE)
    # As the engine has them: slices of something longer.
    keys = normal(2, 1, 3, 3100, SIZE)[:, :, 50 : 50 + tokens]
    values = normal(3, 1, 3, 3100, SIZE + 8)[:, :, 50 : 50 + tokens]
    scores = asked @ keys.swapaxes(-1, -2)
    largest = scores.max(axis=-1, keepdims=True)
    wanted = mx.softmax(scores, axis=-1) @ values
    mx.eval(asked, keys, values, largest, wanted)
    top, total, out = attend_blocks(asked, keys, values)

    assert np.allclose(top, np.array(largest), atol=CLOSE)
    assert np.allclose(np.array(out) / total, np.array(wanted), atol=CLOSE)


def test_gates_that_lie_in_another_array_are_right_too() -> None:
    both = normal(1, 5, 16)
    first, second = mx.split(both, 2, axis=-1)
    wanted = nn.silu(first) * second
    mx.eval(first, second, wanted)

    assert np.allclose(np.array(gate(first, second)), np.array(wanted), atol=CLOSE)
