from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.engine.plan import Limits, Share, plan

LIMITS = Limits(reading_rows=4, slice_tokens=100, beside_tokens=150, padding_tokens=32)
pending = st.lists(st.integers(1, 400), min_size=1, max_size=40)


def padding(shares: list[Share]) -> int:
    counts = [share.tokens for share in shares]
    return len(counts) * max(counts) - sum(counts)


@given(pending)
def test_no_row_takes_part_twice_or_takes_more_than_it_has(counts: list[int]) -> None:
    shares = [share for group in plan(counts, LIMITS) for share in group]

    assert len({share.row for share in shares}) == len(shares)
    assert all(1 <= share.tokens <= counts[share.row] for share in shares)


@given(pending)
def test_every_row_that_decodes_takes_part_in_every_step(counts: list[int]) -> None:
    rows = {share.row for group in plan(counts, LIMITS) for share in group}

    assert {row for row, count in enumerate(counts) if count == 1} <= rows


@given(pending)
def test_the_row_that_waited_longest_to_be_read_takes_part(counts: list[int]) -> None:
    rows = {share.row for group in plan(counts, LIMITS) for share in group}
    reading = [row for row, count in enumerate(counts) if count > 1]

    assert not reading or reading[0] in rows


@given(pending)
def test_the_work_of_a_step_is_bounded(counts: list[int]) -> None:
    groups = plan(counts, LIMITS)
    decoding = sum(1 for count in counts if count == 1)
    reading = groups[-1] if groups[-1][0].tokens > 1 else []

    assert len(groups) <= 2
    assert len(reading) <= LIMITS.reading_rows
    assert all(share.tokens <= LIMITS.slice_tokens for share in reading)
    if decoding:
        assert padding(groups[0]) <= LIMITS.padding_tokens
        assert sum(share.tokens for share in reading) < LIMITS.beside_tokens + LIMITS.slice_tokens


@given(pending)
def test_everything_is_read_in_the_end(counts: list[int]) -> None:
    left = list(counts)
    steps = 0
    while any(left):
        waiting = [row for row, count in enumerate(left) if count]
        for group in plan([left[row] for row in waiting], LIMITS):
            for share in group:
                left[waiting[share.row]] -= share.tokens
        steps += 1

        assert steps <= sum(counts)


def test_a_few_forced_tokens_go_along_with_the_rows_that_decode() -> None:
    assert plan([1, 5, 1, 1], LIMITS) == [[Share(0, 1), Share(2, 1), Share(3, 1), Share(1, 5)]]


def test_a_long_prompt_is_read_beside_the_rows_that_decode_and_in_slices() -> None:
    assert plan([1, 900], LIMITS) == [[Share(0, 1)], [Share(1, 100)]]


def test_less_is_read_beside_rows_that_decode() -> None:
    assert plan([100, 100, 100], LIMITS) == [[Share(0, 100), Share(1, 100), Share(2, 100)]]
    assert plan([1, 100, 100, 100], LIMITS) == [[Share(0, 1)], [Share(1, 100), Share(2, 100)]]


def test_prompts_of_unlike_length_are_not_padded_to_each_other() -> None:
    assert plan([100, 10, 90, 95], LIMITS) == [[Share(0, 100), Share(2, 90), Share(3, 95)]]
