from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.compression.layout import Layout
from dspy_toolkit.compression.prune import best
from dspy_toolkit.compression.saliency import (
    block_influence,
    gradient,
    magnitude,
    unit_scores,
    wanda,
)
from dspy_toolkit.compression.sparsity import cubic_share, smallest_mask

WEIGHT = mx.array([[1.0, -2.0], [0.5, 4.0]])


def test_magnitude_by_hand() -> None:
    assert magnitude(WEIGHT).tolist() == [[1.0, 2.0], [0.5, 4.0]]


def test_gradient_by_hand() -> None:
    slope = mx.array([[3.0, 1.0], [-2.0, 0.0]])

    assert gradient(WEIGHT, slope).tolist() == [[3.0, 2.0], [1.0, 0.0]]


def test_wanda_by_hand() -> None:
    assert wanda(WEIGHT, mx.array([9.0, 0.25])).tolist() == [[3.0, 1.0], [1.5, 2.0]]


@pytest.mark.parametrize(
    ("before", "after", "influence"),
    [
        ([[1.0, 0.0]], [[2.0, 0.0]], 0.0),
        ([[1.0, 0.0]], [[0.0, 3.0]], 1.0),
        ([[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]], 1.0),
        ([[1.0, 1.0]], [[1.0, 0.0]], 1 - math.sqrt(0.5)),
    ],
)
def test_block_influence_by_hand(
    before: list[list[float]], after: list[list[float]], influence: float
) -> None:
    assert block_influence(mx.array(before), mx.array(after)) == pytest.approx(influence, abs=1e-6)


def tiny_scores() -> dict[str, mx.array]:
    """One block: width 2, feed-forward 3, two heads of size 1 in two groups."""
    block = "model.layers.0."
    return {
        f"{block}mlp.gate_proj.weight": mx.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]),
        f"{block}mlp.up_proj.weight": mx.array([[1.0, 1.0], [0.0, 0.0], [5.0, 0.0]]),
        f"{block}mlp.down_proj.weight": mx.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]),
        f"{block}self_attn.q_proj.weight": mx.array([[1.0, 0.0], [2.0, 0.0]]),
        f"{block}self_attn.k_proj.weight": mx.array([[0.0, 3.0], [0.0, 0.0]]),
        f"{block}self_attn.v_proj.weight": mx.array([[0.0, 0.0], [1.0, 1.0]]),
        f"{block}self_attn.o_proj.weight": mx.array([[1.0, 0.0], [0.0, 1.0]]),
        "model.embed_tokens.weight": mx.array([[1.0, 2.0], [3.0, 4.0]]),
    }


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        # gate row + up row + down column
        ("ffn", [[1 + 2 + 1, 2 + 0 + 1, 0 + 5 + 1]]),
        # query row + key row + value row + output column
        ("heads", [[1 + 3 + 0 + 1, 2 + 0 + 2 + 1]]),
        ("layers", [[13 + 10]]),
        # columns of what reads the stream, rows of what writes it, columns of the embedding
        ("width", [[4 + 1 + 6 + 3 + 0 + 1 + 1 + 1, 6 + 2 + 1 + 0 + 3 + 1 + 2 + 1]]),
    ],
)
def test_units_by_hand(structure: str, expected: list[list[float]]) -> None:
    layout = Layout(layers=1, width=2, inner=3, groups=2, heads=1, head=1)

    found = unit_scores(structure, tiny_scores(), layout)

    assert [each.tolist() for each in found] == expected


def test_a_group_of_heads_is_scored_whole() -> None:
    scores = tiny_scores()
    scores["model.layers.0.self_attn.k_proj.weight"] = mx.array([[0.0, 3.0]])
    scores["model.layers.0.self_attn.v_proj.weight"] = mx.array([[1.0, 1.0]])
    layout = Layout(layers=1, width=2, inner=3, groups=1, heads=2, head=1)

    assert unit_scores("heads", scores, layout)[0].tolist() == [1 + 2 + 1 + 1 + 3 + 2]


@pytest.mark.parametrize(
    ("by_row", "expected"),
    [
        (True, [[False, True], [False, True]]),
        (False, [[False, True], [False, True]]),
    ],
)
def test_the_lowest_half_goes(by_row: bool, expected: list[list[bool]]) -> None:
    scores = mx.array([[1.0, 3.0], [2.0, 4.0]])

    assert smallest_mask(scores, 0.5, by_row).tolist() == expected


def test_by_row_each_row_loses_alike() -> None:
    scores = mx.array([[1.0, 2.0], [30.0, 40.0]])

    assert smallest_mask(scores, 0.5, by_row=True).tolist() == [[False, True], [False, True]]
    assert smallest_mask(scores, 0.5, by_row=False).tolist() == [[False, False], [True, True]]


@given(
    st.lists(st.floats(0, 9, width=32), min_size=12, max_size=12),
    st.floats(0, 0.99),
    st.booleans(),
)
def test_as_many_go_as_asked_for_and_none_above_one_that_stays(
    values: list[float], share: float, by_row: bool
) -> None:
    scores = mx.array(values).reshape(3, 4)

    mask = smallest_mask(scores, share, by_row)

    size = 4 if by_row else 12
    gone = 12 // size * math.ceil(share * size - 1e-9)
    assert int((~np.array(mask)).sum()) == gone
    groups = (
        zip(np.array(mask), np.array(scores), strict=True)
        if by_row
        else [(np.array(mask), np.array(scores))]
    )
    for kept, row in groups:
        assert kept.all() or not kept.any() or row[~kept].max() <= row[kept].min()


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.0), (35, 0.8 * (1 - 0.5**3)), (70, 0.8), (100, 0.8)]
)
def test_zeros_grow_by_a_cubic(step: int, share: float) -> None:
    assert cubic_share(step, 100, 0.8) == pytest.approx(share)


def test_the_best_units_stay_in_order_the_earlier_of_equals_first() -> None:
    assert best(mx.array([1.0, 3.0, 2.0, 3.0, 2.0]), 3) == [1, 2, 3]
