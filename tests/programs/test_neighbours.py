from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.programs.neighbours import TextIndex

TEXTS = (
    "My card was charged twice this month.",
    "The parcel has not arrived yet.",
    "I cannot log in to my account.",
    "The invoice shows a wrong amount.",
)
words = st.text(st.characters(whitelist_categories=["L"]), min_size=3, max_size=8)
texts = st.lists(st.lists(words, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Why were there two charges on my card?", 0),
        ("Where is my parcel? It should have arrived on Monday.", 1),
        ("Logging in fails, my account is locked.", 2),
        ("The amounts on your invoices are wrong.", 3),
    ],
)
def test_the_nearest_text_speaks_of_the_same(question: str, expected: int) -> None:
    assert TextIndex(TEXTS).nearest(question, 1) == [expected]


@given(texts, st.integers(0, 11))
def test_a_text_is_nearest_to_itself(pool: list[str], chosen: int) -> None:
    text = pool[chosen % len(pool)]

    assert pool[TextIndex(pool).nearest(text, 1)[0]].lower().split() == text.lower().split() or (
        sorted(pool[TextIndex(pool).nearest(text, 1)[0]].lower().split())
        == sorted(text.lower().split())
    )


@given(texts, st.integers(0, 15))
def test_as_many_come_as_are_asked_for_each_once(pool: list[str], k: int) -> None:
    found = TextIndex(pool).nearest("anything", k)

    assert len(found) == len(set(found)) == min(k, len(pool))


def test_one_may_be_left_out_and_ties_stay_in_order() -> None:
    index = TextIndex(["same", "same", "same"])

    assert index.nearest("same", 3, without=1) == [0, 2]


def test_nothing_in_common_is_no_error() -> None:
    assert TextIndex(TEXTS).nearest("1 2 3", 2) == [0, 1]
