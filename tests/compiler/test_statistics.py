from __future__ import annotations

import random
from collections.abc import Callable
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.compiler.statistics import mean_interval, paired_interval, wilson

shares = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)
score_lists = st.lists(shares, min_size=1, max_size=60)
pairs = st.lists(st.tuples(shares, shares), min_size=1, max_size=60)
REPEATS = 2000


def coverage(draw: Callable[[random.Random], bool]) -> float:
    rng = random.Random(20)
    return fmean(draw(rng) for _ in range(REPEATS))


def test_wilson_gives_the_published_interval() -> None:
    assert wilson(81 / 263, 263) == pytest.approx((0.255289, 0.366210), abs=5e-7)


def test_zero_one_scores_give_wilsons_interval() -> None:
    scores = [1.0] * 81 + [0.0] * 182

    assert mean_interval(scores) == pytest.approx(wilson(81 / 263, 263), abs=1e-12)


@given(score_lists)
def test_an_interval_holds_its_mean_and_stays_within_the_scale(scores: list[float]) -> None:
    low, high = mean_interval(scores)

    assert 0.0 <= low <= fmean(scores) + 1e-12
    assert fmean(scores) - 1e-12 <= high <= 1.0


@given(score_lists)
def test_an_interval_is_never_a_point(scores: list[float]) -> None:
    low, high = mean_interval(scores)

    assert high - low > 1e-3 / len(scores)


@given(score_lists)
def test_turning_scores_over_turns_the_interval_over(scores: list[float]) -> None:
    low, high = mean_interval(scores)
    turned = mean_interval([1 - score for score in scores])

    assert turned == pytest.approx((1 - high, 1 - low), abs=1e-6)


@pytest.mark.parametrize("n", [20, 60, 200])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_interval_of_labels_covers_the_truth_as_often_as_it_says(n: int, share: float) -> None:
    def holds(rng: random.Random) -> bool:
        low, high = mean_interval([float(rng.random() < share) for _ in range(n)])
        return low <= share <= high

    assert 0.93 <= coverage(holds) <= 0.985


@pytest.mark.parametrize("n", [20, 60, 200])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_interval_of_two_field_scores_covers_the_truth(n: int, share: float) -> None:
    def holds(rng: random.Random) -> bool:
        scores = [((rng.random() < share) + (rng.random() < share)) / 2 for _ in range(n)]
        low, high = mean_interval(scores)
        return low <= share <= high

    assert 0.93 <= coverage(holds) <= 0.985


@pytest.mark.parametrize("n", [20, 60, 200])
@pytest.mark.parametrize(
    ("both", "lost", "gained"), [(0.5, 0.05, 0.2), (0.4, 0.1, 0.1), (0, 0, 0.9)]
)
def test_the_paired_interval_covers_the_true_difference(
    n: int, both: float, lost: float, gained: float
) -> None:
    def holds(rng: random.Random) -> bool:
        before, after = [], []
        for _ in range(n):
            u = rng.random()
            before.append(float(u < both + lost))
            after.append(float(u < both or both + lost <= u < both + lost + gained))
        low, high = paired_interval(before, after)
        return low <= gained - lost <= high

    assert coverage(holds) >= 0.935


@given(pairs)
def test_swapping_before_and_after_turns_the_paired_interval_over(
    scores: list[tuple[float, float]],
) -> None:
    before, after = [a for a, _ in scores], [b for _, b in scores]
    low, high = paired_interval(before, after)

    assert paired_interval(after, before) == pytest.approx((-high, -low))
    assert -1.0 <= low <= high <= 1.0


def test_equal_scores_give_a_narrow_interval_around_zero() -> None:
    low, high = paired_interval([0.0, 1.0] * 100, [0.0, 1.0] * 100)

    assert low == pytest.approx(-high)
    assert 0 < high < 0.02


def test_pairing_tells_apart_what_separate_intervals_do_not() -> None:
    before = [1.0] * 100 + [0.0] * 100
    after = [1.0] * 115 + [0.0] * 85

    assert mean_interval(before)[1] > mean_interval(after)[0]
    assert paired_interval(before, after)[0] > 0


def test_scores_too_small_to_matter_are_as_good_as_zero() -> None:
    assert mean_interval([0.0, 2.3e-308]) == pytest.approx(mean_interval([0.0, 0.0]))


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one score"):
        mean_interval([])
    with pytest.raises(ValueError, match=r"within \[0, 1\]"):
        mean_interval([0.5, 1.5])
    with pytest.raises(ValueError, match="equal pairs, got 1 and 2"):
        paired_interval([0.0], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"share in \[0, 1\]"):
        wilson(1.2, 10)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\)"):
        wilson(0.5, 10, level=1.0)
