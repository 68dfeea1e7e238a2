from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.training.encode import Encoded
from dspy_toolkit.training.packing import TooLong, fit, one_each, pack

LENGTH = 16


def encoded(length: int, index: int, answer_from: int = 1) -> Encoded:
    return Encoded(
        np.full(length, index + 1, np.int32),
        (np.arange(length) >= answer_from).astype(np.float32),
        f"data:{index}",
    )


lengths = st.lists(st.integers(2, LENGTH), min_size=1, max_size=60)


@given(lengths)
def test_packing_keeps_every_example_whole_and_once(sizes: list[int]) -> None:
    rows = pack([encoded(size, i) for i, size in enumerate(sizes)], LENGTH)

    found = {
        int(row.tokens[row.documents == number][0]) - 1: int((row.documents == number).sum())
        for row in rows
        for number in range(1, row.documents.max() + 1)
    }
    assert found == dict(enumerate(sizes))
    assert sorted(place for row in rows for place in row.places) == sorted(
        f"data:{i}" for i in range(len(sizes))
    )


@given(lengths)
def test_no_row_is_longer_than_it_may_be_and_few_are_nearly_empty(sizes: list[int]) -> None:
    rows = pack([encoded(size, i) for i, size in enumerate(sizes)], LENGTH)

    filled = [len(row.tokens) for row in rows]
    assert max(filled) <= LENGTH
    assert sum(2 * size <= LENGTH for size in filled) <= 1


@given(lengths)
def test_the_first_token_of_an_example_is_never_a_goal(sizes: list[int]) -> None:
    for row in pack([encoded(size, i, 0) for i, size in enumerate(sizes)], LENGTH):
        starts = np.diff(row.documents, prepend=0) != 0

        assert not row.goals[starts].any()
        assert row.goals[~starts].all()


def test_examples_that_fit_are_kept_as_they_are() -> None:
    examples = [encoded(LENGTH, 0), encoded(2, 1)]

    fitted = fit(examples, LENGTH, "refuse")

    assert fitted.examples[0].tokens.tolist() == examples[0].tokens.tolist()
    assert (fitted.truncated, fitted.skipped) == (0, 0)


def test_a_long_example_is_refused_with_its_place_and_length() -> None:
    with pytest.raises(TooLong, match="data:7: has 17 tokens, a row holds 16; raise"):
        fit([encoded(17, 7)], LENGTH, "refuse")


@pytest.mark.parametrize(
    ("too_long", "answer_from", "kept", "truncated", "skipped"),
    [
        ("truncate", 1, [16], 1, 0),
        ("truncate", 15, [16], 1, 0),
        # The whole answer would be cut off.
        ("truncate", 16, [], 0, 1),
        ("skip", 1, [], 0, 1),
    ],
)
def test_a_long_example_is_cut_or_left_out_and_counted(
    too_long: str, answer_from: int, kept: list[int], truncated: int, skipped: int
) -> None:
    fitted = fit([encoded(20, 0, answer_from)], LENGTH, too_long)

    assert [len(example.tokens) for example in fitted.examples] == kept
    assert (fitted.truncated, fitted.skipped) == (truncated, skipped)


def test_without_packing_each_example_has_its_row() -> None:
    rows = one_each([encoded(3, 0), encoded(5, 1)])

    assert [row.tokens.tolist() for row in rows] == [[1] * 3, [2] * 5]
