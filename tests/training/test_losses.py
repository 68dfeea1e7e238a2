from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.training.losses import (
    binary,
    cross_entropy,
    focal,
    huber,
    kl_to_teacher,
    label_smoothing,
    weighted_sum,
)

logits = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=6)
HALF = [0.0, 0.0]
# p = 0.75 and 0.25.
SURE = [math.log(3.0), 0.0]


def value(loss: mx.array) -> float:
    return float(np.array(loss)[0])


@pytest.mark.parametrize(
    ("row", "target", "expected"),
    [
        (HALF, 0, math.log(2)),
        (SURE, 0, -math.log(0.75)),
        (SURE, 1, -math.log(0.25)),
        ([1000.0, 0.0], 1, 1000.0),
    ],
)
def test_cross_entropy_by_hand(row: list[float], target: int, expected: float) -> None:
    assert value(cross_entropy(mx.array([row]), mx.array([target]))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("row", "smoothing", "expected"),
    [
        (SURE, 0.0, -math.log(0.75)),
        # Goal (0.9, 0.1).
        (SURE, 0.2, -0.9 * math.log(0.75) - 0.1 * math.log(0.25)),
        (HALF, 0.5, math.log(2)),
    ],
)
def test_label_smoothing_by_hand(row: list[float], smoothing: float, expected: float) -> None:
    loss = label_smoothing(mx.array([row]), mx.array([0]), smoothing)

    assert value(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("row", "gamma", "expected"),
    [
        (SURE, 0.0, -math.log(0.75)),
        (SURE, 2.0, -(0.25**2) * math.log(0.75)),
        (HALF, 1.0, 0.5 * math.log(2)),
    ],
)
def test_focal_by_hand(row: list[float], gamma: float, expected: float) -> None:
    assert value(focal(mx.array([row]), mx.array([0]), gamma)) == pytest.approx(expected, rel=1e-5)


def test_focal_has_a_gradient_where_the_model_is_certain() -> None:
    gradient = mx.grad(lambda row: focal(row, mx.array([0]), 0.5).sum())(mx.array([[60.0, 0.0]]))

    assert mx.isfinite(gradient).all().item()


@pytest.mark.parametrize(
    ("logit", "target", "expected"),
    [
        (0.0, 1.0, math.log(2)),
        (math.log(3.0), 1.0, -math.log(0.75)),
        (math.log(3.0), 0.0, -math.log(0.25)),
        (-1000.0, 1.0, 1000.0),
        # Half right, half wrong.
        (math.log(3.0), 0.5, -0.5 * math.log(0.75) - 0.5 * math.log(0.25)),
    ],
)
def test_binary_by_hand(logit: float, target: float, expected: float) -> None:
    assert value(binary(mx.array([logit]), mx.array([target]))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("student", "teacher", "temperature", "expected"),
    [
        (SURE, SURE, 1.0, 0.0),
        (HALF, SURE, 1.0, 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
        # At temperature 2 the teacher's odds are sqrt(3); the result is multiplied with 4.
        (HALF, [2 * math.log(3.0), 0.0], 2.0, 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))),
    ],
)
def test_kl_by_hand(
    student: list[float], teacher: list[float], temperature: float, expected: float
) -> None:
    loss = kl_to_teacher(mx.array([student]), mx.array([teacher]), temperature)

    assert value(loss) == pytest.approx(expected, abs=1e-6)


def test_no_gradient_reaches_the_teacher() -> None:
    gradient = mx.grad(lambda row: kl_to_teacher(mx.array([SURE]), row).sum())(mx.array([HALF]))

    assert not gradient.any().item()


@pytest.mark.parametrize(
    ("error", "delta", "expected"),
    [(0.0, 1.0, 0.0), (0.5, 1.0, 0.125), (-3.0, 1.0, 2.5), (3.0, 2.0, 4.0)],
)
def test_huber_by_hand(error: float, delta: float, expected: float) -> None:
    assert value(huber(mx.array([error]), mx.array([0.0]), delta)) == pytest.approx(expected)


def test_weighted_sum_by_hand() -> None:
    losses = {"team": mx.array([1.0, 2.0]), "urgency": mx.array([10.0, 0.0])}

    assert weighted_sum(losses, {"urgency": 0.5}).tolist() == [6.0, 2.0]


@given(logits, st.floats(-50, 50, width=32))
def test_losses_do_not_change_when_all_logits_shift(row: list[float], shift: float) -> None:
    here, there = mx.array([row]), mx.array([row]) + shift
    target = mx.array([0])

    assert value(cross_entropy(here, target)) == pytest.approx(
        value(cross_entropy(there, target)), abs=1e-3
    )
    assert value(kl_to_teacher(here, there)) == pytest.approx(0.0, abs=1e-3)


@given(logits, st.integers(0, 1))
def test_losses_are_never_below_their_bounds(row: list[float], target: int) -> None:
    array, goal = mx.array([row]), mx.array([target])
    plain = value(cross_entropy(array, goal))

    assert plain >= -1e-5
    assert -1e-5 <= value(focal(array, goal, 2.0)) <= plain + 1e-5
    assert value(kl_to_teacher(array, -array)) >= -1e-5
    assert value(label_smoothing(array, goal, 0.3)) >= -1e-5


@given(st.floats(-20, 20, width=32))
def test_binary_is_cross_entropy_of_two_classes(logit: float) -> None:
    two = cross_entropy(mx.array([[0.0, logit]]), mx.array([1]))

    assert value(binary(mx.array([logit]), mx.array([1.0]))) == pytest.approx(value(two), abs=1e-5)


def test_losses_are_float32_whatever_the_logits_are() -> None:
    halves = mx.array([SURE], mx.bfloat16)

    assert cross_entropy(halves, mx.array([0])).dtype == mx.float32


def test_options_outside_their_range_are_refused() -> None:
    row, target = mx.array([HALF]), mx.array([0])

    with pytest.raises(ValueError, match="smoothing must lie in"):
        label_smoothing(row, target, 1.0)
    with pytest.raises(ValueError, match="gamma must be at least 0"):
        focal(row, target, -1.0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        kl_to_teacher(row, row, 0.0)
    with pytest.raises(ValueError, match="delta must be above 0"):
        huber(row, row, 0.0)
    with pytest.raises(ValueError, match="do not fit the tasks"):
        weighted_sum({"team": row}, {"tame": 1.0})


@given(st.lists(st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3), min_size=1))
def test_the_gradient_of_cross_entropy_is_share_minus_goal(rows: list[list[float]]) -> None:
    array, target = mx.array(rows), mx.zeros((len(rows),), mx.int32)

    gradient = mx.grad(lambda each: (2 * cross_entropy(each, target)).sum())(array)

    expected = 2 * (mx.softmax(array, axis=-1) - mx.array([[1.0, 0.0, 0.0]]))
    assert mx.allclose(gradient, expected, atol=1e-5).item()
