from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dspy_toolkit.compiler.gate import BETTER, NOT_SHOWN, WORSE, Judgement, judge, log_wealth

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]

shares = st.integers(0, 20).map(lambda twentieths: twentieths / 20)
pairs = st.lists(st.tuples(shares, shares), min_size=1, max_size=60)
ALPHA = 0.05
REPEATS, EXAMPLES = 400, 200


def outcome(gains: int, losses: int, ties: int = 10) -> Judgement:
    before = [0.0] * gains + [1.0] * losses + [1.0] * ties
    after = [1.0] * gains + [0.0] * losses + [1.0] * ties
    return judge(before, after)


@pytest.mark.parametrize(
    ("gains", "losses", "verdict"),
    [
        (0, 0, NOT_SHOWN),
        # Gains alone: about (2^(n+1) - 1) / (n + 1), and 40 is needed.
        (7, 0, NOT_SHOWN),
        (8, 0, BETTER),
        (0, 8, WORSE),
        (12, 10, NOT_SHOWN),
        (25, 5, BETTER),
        (5, 25, WORSE),
    ],
)
def test_verdicts_worked_by_hand(gains: int, losses: int, verdict: str) -> None:
    assert outcome(gains, losses).verdict == verdict


@pytest.mark.parametrize(("gains", "losses"), [(1, 0), (3, 0), (8, 0), (5, 2), (20, 10)])
def test_the_evidence_is_the_mixture_over_all_stakes(gains: int, losses: int) -> None:
    # The integral of (1 + b)^gains (1 - b)^losses over b from 0 to 1.
    wealth = np.polynomial.Polynomial([1, 1]) ** gains * np.polynomial.Polynomial([1, -1]) ** losses
    exact = wealth.integ()(1.0)

    assert outcome(gains, losses).e_better == pytest.approx(exact, rel=0.01)


def test_one_gain_and_one_half_gain_by_hand() -> None:
    one, half = judge([0.0], [1.0]), judge([0.0, 0.5], [1.0, 1.0])

    assert one.e_better == pytest.approx(1.5)
    # The mean of (1 + b)(1 + b / 2) over b from 0 to 1.
    assert half.e_better == pytest.approx(1 + 3 / 4 + 1 / 6, rel=1e-3)


@given(pairs)
def test_swapping_the_programs_swaps_the_verdict(scores: list[tuple[float, float]]) -> None:
    before, after = [a for a, _ in scores], [b for _, b in scores]
    there, back = judge(before, after), judge(after, before)

    swapped = {BETTER: WORSE, WORSE: BETTER, NOT_SHOWN: NOT_SHOWN}
    assert back.verdict == swapped[there.verdict]
    assert (back.e_better, back.e_worse) == (there.e_worse, there.e_better)


@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_the_examples_does_not_matter(
    scores: list[tuple[float, float]], rng: Any
) -> None:
    mixed = rng.sample(scores, len(scores))
    there, again = (judge([a for a, _ in each], [b for _, b in each]) for each in (scores, mixed))

    assert again.e_better == pytest.approx(there.e_better, rel=1e-4)
    assert again.e_worse == pytest.approx(there.e_worse, rel=1e-4)


@given(st.lists(shares, min_size=1, max_size=60))
def test_identical_scores_show_nothing(scores: list[float]) -> None:
    judgement = judge(scores, scores)

    assert (judgement.verdict, judgement.e_better, judgement.e_worse) == (NOT_SHOWN, 1.0, 1.0)


@given(st.lists(st.tuples(shares, shares), min_size=20, max_size=60))
def test_a_verdict_never_contradicts_the_difference(scores: list[tuple[float, float]]) -> None:
    before, after = [a for a, _ in scores], [b for _, b in scores]
    judgement = judge(before, after, alpha=0.9)
    gain = math.fsum(after) - math.fsum(before)

    assert judgement.verdict != BETTER or gain > 0
    assert judgement.verdict != WORSE or gain < 0


def test_more_examples_than_floats_can_count_stay_finite() -> None:
    judgement = judge([0.0] * 5000, [1.0] * 5000)

    assert judgement.verdict == BETTER
    assert math.isfinite(judgement.e_better)


def zero_one(gained: float, lost: float) -> Draw:
    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        u = rng.random(shape)
        return np.where(u < gained, 1.0, np.where(u < gained + lost, -1.0, 0.0))

    return draw


def of_fields(gained: float, lost: float, fields: int) -> Draw:
    one = zero_one(gained, lost)

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
        total = sum((one(rng, shape) for _ in range(fields)), np.zeros(shape))
        return total / fields

    return draw


def lopsided(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Mostly small gains, now and then a total loss; 0 on average."""
    return np.where(rng.random(shape) < 0.05, -1.0, 0.05 / 0.95)


def drifting(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Examples grow harder for both: differences grow in size, without a direction."""
    size = np.linspace(0.05, 1.0, shape[1])
    return np.where(rng.random(shape) < 0.5, size, -size)


def shares_that_cross(draw: Draw, seed: int, *, stopping: bool) -> tuple[float, float]:
    """Shares of comparisons with the verdict "better" and "worse".

    With `stopping` by someone who looks after every example and stops as soon as it suits them.
    """
    differences = draw(np.random.default_rng(seed), (REPEATS, EXAMPLES))
    line = math.log(2 / ALPHA)
    up, down = log_wealth(differences), log_wealth(-differences)
    if stopping:
        return float((up.max(-1) >= line).mean()), float((down.max(-1) >= line).mean())
    return float((up[:, -1] >= line).mean()), float((down[:, -1] >= line).mean())


@pytest.mark.parametrize(
    "null",
    [
        pytest.param(zero_one(0.5, 0.5), id="always apart"),
        pytest.param(zero_one(0.1, 0.1), id="mostly alike"),
        pytest.param(zero_one(0.01, 0.01), id="almost always alike"),
        pytest.param(of_fields(0.2, 0.2, 3), id="three fields"),
        pytest.param(lopsided, id="lopsided"),
        pytest.param(drifting, id="drifting"),
    ],
)
def test_equal_programs_pass_no_more_often_than_stated_however_one_stops(null: Draw) -> None:
    better, worse = shares_that_cross(null, seed=1, stopping=True)

    assert better <= ALPHA / 2
    assert worse <= ALPHA / 2


def test_a_worse_program_hardly_ever_passes() -> None:
    better, _ = shares_that_cross(zero_one(0.1, 0.15), seed=2, stopping=True)

    assert better <= 0.005


@pytest.mark.parametrize(
    ("effect", "power"),
    [
        pytest.param(zero_one(0.25, 0.05), 0.97, id="20 points"),
        pytest.param(zero_one(0.2, 0.05), 0.85, id="15 points"),
        pytest.param(zero_one(0.12, 0.02), 0.7, id="10 points, few lost"),
        pytest.param(of_fields(0.2, 0.05, 3), 0.97, id="15 points in three fields"),
    ],
)
def test_what_the_gate_finds_in_200_examples(effect: Draw, power: float) -> None:
    better, worse = shares_that_cross(effect, seed=3, stopping=False)

    assert better >= power
    assert worse == 0.0


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="equal pairs, got 1 and 2"):
        judge([0.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="equal pairs, got 0 and 0"):
        judge([], [])
    with pytest.raises(ValueError, match=r"within \[0, 1\]"):
        judge([0.5], [float("nan")])
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, 1\)"):
        judge([0.5], [0.5], alpha=1.0)
