from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.engine.stops import Found, MarkerFinder

# Few letters, so that stops occur, overlap and begin again inside themselves.
texts = st.text("ab[\n", max_size=40)
stops = st.lists(st.text("ab[\n", min_size=1, max_size=5), max_size=4)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def cut_at_first(text: str, markers: list[str]) -> str:
    """The text before the marker that ends first, found letter by letter."""
    for end in range(1, len(text) + 1):
        ending = [marker for marker in markers if text[:end].endswith(marker)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


@given(texts, st.lists(st.integers(0, 40), max_size=8), stops)
def test_what_comes_out_is_the_text_up_to_the_first_stop(
    text: str, cuts: list[int], markers: list[str]
) -> None:
    finder = MarkerFinder(markers)
    emitted = ""
    for piece in pieces_of(text, cuts):
        found = finder.feed(piece)
        emitted += found.text
        if found.marker is not None:
            break
    else:
        emitted += finder.flush()

    assert emitted == cut_at_first(text, markers)


@given(texts, st.lists(st.integers(0, 40), max_size=8), stops, texts)
def test_nothing_is_emitted_that_a_later_letter_could_make_part_of_a_stop(
    text: str, cuts: list[int], markers: list[str], more: str
) -> None:
    finder = MarkerFinder(markers)
    emitted = ""
    for piece in pieces_of(text, cuts):
        found = finder.feed(piece)
        emitted += found.text
        if found.marker is not None:
            break

    assert cut_at_first(text + more, markers).startswith(emitted)


@pytest.mark.parametrize(
    ("markers", "fed", "found"),
    [
        (["["], ["x\n["], [Found("x\n", "[", "")]),
        (["]]"], ["a]", "b"], [Found("a"), Found("]b")]),
        (["abcd", "bc"], ["abcd"], [Found("a", "bc", "d")]),
        (["bc", "abc"], ["abc"], [Found("", "abc", "")]),
        (["aab"], ["aaab"], [Found("a", "aab", "")]),
        ([], ["all of it"], [Found("all of it")]),
        (["", "x"], ["ax"], [Found("a", "x", "")]),
    ],
)
def test_cases_worked_by_hand(markers: list[str], fed: list[str], found: list[Found]) -> None:
    finder = MarkerFinder(markers)

    assert [finder.feed(piece) for piece in fed] == found
