from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dspy_toolkit.compiler.race import ASIDE, BEATEN, RACING, Pair, Race, Rules, race

Matrix = NDArray[np.float64]
matrices = st.tuples(st.integers(1, 12), st.integers(1, 30), st.integers(0, 10**6)).map(
    lambda size: np.round(np.random.default_rng(size[2]).random(size[:2]), 1)
)


def run(matrix: Matrix, budget: int, alpha: float = 0.05) -> tuple[Race, list[Pair]]:
    asked: list[Pair] = []

    def score(pairs: Sequence[Pair]) -> list[float]:
        asked.extend(pairs)
        return [float(matrix[pair]) for pair in pairs]

    return race(score, len(matrix), matrix.shape[1], Rules(budget, alpha)), asked


@given(matrices, st.integers(1, 400))
def test_no_pair_is_scored_twice_and_the_budget_holds(matrix: Matrix, budget: int) -> None:
    result, asked = run(matrix, budget)

    assert len(set(asked)) == len(asked) == result.scored
    assert result.scored <= max(budget, len(matrix))


@given(matrices, st.integers(1, 400))
def test_the_winner_raced_to_the_end_and_nobody_there_was_better(
    matrix: Matrix, budget: int
) -> None:
    result, _ = run(matrix, budget)
    finalists = [lane for lane in result.lanes if lane.ended == RACING]

    assert result.lanes[result.winner].ended == RACING
    assert result.lanes[result.winner].mean == max(lane.mean for lane in finalists)
    assert len({len(lane.scores) for lane in finalists}) == 1


@given(matrices, st.integers(1, 400))
def test_all_that_race_see_the_same_examples(matrix: Matrix, budget: int) -> None:
    result, _ = run(matrix, budget)

    for number, lane in enumerate(result.lanes):
        assert lane.scores == tuple(matrix[number, : len(lane.scores)])
        assert lane.scores


@given(matrices)
def test_with_budget_for_all_only_the_beaten_leave(matrix: Matrix) -> None:
    result, _ = run(matrix, matrix.size)

    assert all(lane.ended != ASIDE for lane in result.lanes)
    whole = [lane.mean for lane in result.lanes if lane.ended == RACING]
    assert result.lanes[result.winner].mean == max(whole)


@given(st.integers(2, 12), st.integers(0, 11), st.integers(1, 30))
def test_one_that_is_always_right_wins_however_small_the_budget(
    candidates: int, best: int, examples: int
) -> None:
    matrix = np.zeros((candidates, examples))
    matrix[best % candidates] = 1.0
    result, _ = run(matrix, candidates)

    assert result.winner == best % candidates


@pytest.mark.parametrize(
    ("matrix", "budget", "winner", "ended"),
    [
        # Alone: wins, on one block.
        ([[0, 0, 0]], 3, 0, [RACING]),
        # Equals: the first, which is the cheaper one.
        ([[1, 0], [1, 0]], 4, 0, [RACING, RACING]),
        # The budget takes three of six to the second example: ceil(0.6 x 3) = 2 go on.
        ([[0, 0], [1, 0], [1, 1]], 5, 2, [ASIDE, RACING, RACING]),
        # Twenty losses in a row are beyond chance at any alpha of the usual size.
        ([[1] * 20, [0] * 20], 40, 0, [RACING, BEATEN]),
    ],
)
def test_races_worked_by_hand(
    matrix: list[list[float]], budget: int, winner: int, ended: list[str]
) -> None:
    result, _ = run(np.array(matrix, float), budget)

    assert result.winner == winner
    assert [lane.ended for lane in result.lanes] == ended


def test_a_block_holds_each_candidates_examples_side_by_side() -> None:
    _, asked = run(np.ones((3, 4)), 12)

    assert asked == sorted(asked)


def test_the_best_is_shown_to_lose_no_more_often_than_stated() -> None:
    rng = np.random.default_rng(0)
    alpha, trials, lost = 0.1, 150, 0
    for _ in range(trials):
        # The first is as good as the others: the hardest case.
        matrix = (rng.random((6, 60)) < 0.7).astype(float)
        result, _ = run(matrix, matrix.size, alpha)
        lost += result.lanes[0].ended == BEATEN

    assert lost / trials <= alpha


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_a_race_needs_candidates_and_examples(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="needs candidates and examples"):
        race(lambda pairs: [], *shape, Rules(10))
