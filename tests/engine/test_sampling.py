from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.engine.sampling import (
    Sampling,
    counting,
    greedy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    make_processors,
    make_sampler,
    token_key,
)

logits = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12)
few = settings(max_examples=40, deadline=None)


def row(values: list[float]) -> mx.array:
    raw = mx.array([values])
    return raw - mx.logsumexp(raw, axis=-1, keepdims=True)


def kept(masked: mx.array) -> set[int]:
    return {int(place) for place in np.flatnonzero(np.array(masked[0]) > -math.inf)}


def of(shares: list[float]) -> mx.array:
    return mx.log(mx.array([shares]))


def drawn_by(sampler: Callable[[mx.array], mx.array], scores: mx.array) -> int:
    return int(np.array(sampler(scores))[0])


@few
@given(logits, st.floats(0, 1), st.floats(0, 1), st.integers(0, 14))
def test_no_filter_drops_the_best_token_or_changes_one_it_keeps(
    values: list[float], top_p: float, min_p: float, top_k: int
) -> None:
    before = row(values)
    best = drawn_by(greedy, before)
    for after in (keep_top_p(before, top_p), keep_min_p(before, min_p), keep_top_k(before, top_k)):
        assert best in kept(after)
        assert all(after[0, i].item() == before[0, i].item() for i in kept(after))


@pytest.mark.parametrize(
    ("top_p", "left"),
    [(0.0, {0}), (0.4, {0}), (0.6, {0, 1}), (0.75, {0, 1}), (0.85, {0, 1, 2}), (1.0, {0, 1, 2, 3})],
)
def test_top_p_keeps_the_smallest_set_that_holds_the_share(top_p: float, left: set[int]) -> None:
    assert kept(keep_top_p(of([0.5, 0.3, 0.15, 0.05]), top_p)) == left


@pytest.mark.parametrize(("min_p", "left"), [(0.0, {0, 1, 2}), (0.25, {0, 1}), (1.0, {0})])
def test_min_p_measures_against_the_best(min_p: float, left: set[int]) -> None:
    assert kept(keep_min_p(of([0.6, 0.3, 0.1]), min_p)) == left


@pytest.mark.parametrize(("top_k", "left"), [(0, {0, 1, 2}), (1, {1}), (2, {1, 2}), (9, {0, 1, 2})])
def test_top_k_keeps_the_likeliest(top_k: int, left: set[int]) -> None:
    assert kept(keep_top_k(of([0.1, 0.6, 0.3]), top_k)) == left


def test_rows_are_filtered_each_by_itself() -> None:
    rows = mx.concatenate([of([0.9, 0.05, 0.05]), of([0.1, 0.2, 0.7])])

    assert [kept(keep_top_k(rows[i : i + 1], 1)) for i in (0, 1)] == [{0}, {2}]
    assert kept(keep_min_p(rows, 0.5)[1:]) == {2}
    assert kept(keep_top_p(rows, 0.8)[1:]) == {1, 2}


def test_the_same_seed_draws_the_same_tokens_and_another_one_others() -> None:
    flat = of([0.125] * 8)

    def drawn(seed: int) -> list[int]:
        sample = counting(make_sampler(Sampling(temperature=1.0, seed=seed)), 0)
        return [drawn_by(sample, flat) for _ in range(32)]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in (0, 1, -1, 2**70)}) == 4


def test_without_a_seed_draws_differ() -> None:
    flat = of([1 / 64] * 64)
    draws = set()
    for _ in range(4):
        sample = counting(make_sampler(Sampling(temperature=1.0)), 0)
        draws.add(tuple(drawn_by(sample, flat) for _ in range(8)))

    assert len(draws) == 4


def test_a_row_taken_up_again_goes_on_where_it_was() -> None:
    flat, sampling = of([0.125] * 8), Sampling(temperature=1.0, seed=5)
    whole = counting(make_sampler(sampling), 0)
    tokens = [drawn_by(whole, flat) for _ in range(8)]
    again = counting(make_sampler(sampling), 4)

    assert [drawn_by(again, flat) for _ in range(4)] == tokens[4:]


def test_draws_follow_the_probabilities() -> None:
    counts = [0, 0, 0]
    shares = of([0.6, 0.3, 0.1])
    for number in range(2000):
        counts[drawn_by(partial(mx.random.categorical, key=token_key(3, number)), shares)] += 1

    assert counts == pytest.approx([1200, 600, 200], abs=90)


def test_temperature_sharpens() -> None:
    sample = counting(make_sampler(Sampling(temperature=0.05, seed=1)), 0)

    assert {drawn_by(sample, of([0.4, 0.6])) for _ in range(50)} == {1}


def test_temperature_zero_is_greedy_whatever_else_is_asked() -> None:
    chosen = make_sampler(Sampling(temperature=0, top_p=0.1, seed=3))

    assert counting(chosen, 0) is greedy


def test_presence_is_taken_once_and_frequency_each_time_from_the_answer_alone() -> None:
    sampling = Sampling(presence_penalty=1.0, frequency_penalty=0.25)
    (penalise,) = make_processors(sampling, prompt_tokens=2)
    after = penalise(mx.array([0, 1, 2, 2, 3]), mx.zeros((1, 5)))

    assert after.tolist() == [[0.0, 0.0, -1.5, -1.25, 0.0]]


def test_the_repetition_penalty_pushes_down_what_was_seen_lately() -> None:
    sampling = Sampling(repetition_penalty=2.0, repetition_context=2)
    (penalise,) = make_processors(sampling, prompt_tokens=0)
    after = penalise(mx.array([0, 1, 2]), mx.array([[4.0, 4.0, -4.0, 4.0]]))

    assert after.tolist() == [[4.0, 2.0, -8.0, 4.0]]


def test_no_penalty_means_no_work() -> None:
    assert make_processors(Sampling(), 3) == []
