from __future__ import annotations

from typing import Any

import pytest
from dspy.adapters.types.decision import Choice, Noul, Score
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel

from dspy_toolkit.programs.compare import (
    Rules,
    agreement,
    as_number,
    normal,
    plain,
    token_f1,
    tokens,
)

texts = st.text(max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
RULES = Rules()


class Line(BaseModel):
    name: str
    note: str | None = None


@pytest.mark.parametrize(
    ("right", "given_", "score"),
    [
        ("Atlas", "  atlas\n", 1.0),
        ("Straße", "STRASSE", 1.0),
        ("\ufb01ne", "fine", 1.0),
        ("atlas", "comet", 0.0),
        ("atlas", None, 0.0),
        ("7", 7, 1.0),
        (True, "Yes", 1.0),
        (True, 1, 0.0),
        (False, "no", 1.0),
        (None, None, 1.0),
        (None, "none", 0.0),
        (3, "3 cups", 1.0),
        (3, "3 or 4", 0.0),
        (3, True, 0.0),
        (1204.5, "$1,204.50", 1.0),
        ([1, 2], [2, 1], 1.0),
        ([1, 1, 2], [1, 2, 2], 0.0),
        ([1, 2], [1], 0.0),
        ([], [], 1.0),
        ({"a": 1}, {"a": 1, "b": None}, 1.0),
        ({"a": 1}, {"a": 2}, 0.0),
        ([{"name": "cup", "note": None}], [Line(name="Cup")], 1.0),
        ("cup", ["cup"], 0.0),
    ],
)
def test_values_agree_as_documented(right: Any, given_: Any, score: float) -> None:
    assert agreement(right, given_, RULES) == score


@pytest.mark.parametrize(
    ("rule", "score"), [("ordered", 0.0), ("unordered", 0.0), ("overlap", 2 * 2 / 5)]
)
def test_lists_follow_their_rule(rule: Any, score: float) -> None:
    assert agreement(["a", "b"], ["b", "a", "c"], Rules(lists=rule)) == pytest.approx(score)


def test_an_ordered_list_must_keep_its_order() -> None:
    assert agreement(["a", "b"], ["a", "b"], Rules(lists="ordered")) == 1.0
    assert agreement(["a", "b"], ["b", "a"], Rules(lists="ordered")) == 0.0


def test_the_tolerance_is_relative_above_one_and_absolute_below() -> None:
    assert agreement(200.0, 201.9, Rules(tolerance=0.01)) == 1.0
    assert agreement(200.0, 202.1, Rules(tolerance=0.01)) == 0.0
    assert agreement(0.0, 0.009, Rules(tolerance=0.01)) == 1.0


def test_a_decision_counts_as_its_value() -> None:
    assert plain(Choice(value="a", confidence=0.4)) == "a"
    assert agreement("a", Choice(value="A", confidence=0.4), RULES) == 1.0
    assert agreement(True, Noul(value=True, confidence=0.9), RULES) == 1.0
    assert agreement(1.5, Score(value=1.5, confidence=0.2), RULES) == 1.0


def test_an_object_with_the_fields_of_a_decision_is_compared_whole() -> None:
    class Reading(BaseModel):
        value: str
        confidence: float

    assert agreement(Reading(value="a", confidence=0.4), {"value": "a"}, RULES) == 0.0
    assert agreement(Reading(value="a", confidence=0.4), Reading(value="a", confidence=0.4), RULES)


def test_models_that_are_no_objects_are_compared_as_what_they_hold() -> None:
    assert agreement(["a", "b"], RootModel[list[str]](["b", "a"]), RULES) == 1.0
    assert agreement("a", RootModel[str]("A"), RULES) == 1.0


def test_numbers_too_large_for_a_float_agree_with_themselves_only() -> None:
    assert agreement(10**400, 10**400, RULES) == 1.0
    assert agreement(10**400, 10**400 + 1, RULES) == 0.0
    assert agreement(1, 10**400, RULES) == 0.0


@settings(max_examples=40)
@given(values)
def test_every_value_agrees_with_itself_under_every_rule(value: Any) -> None:
    for rule in ("ordered", "unordered", "overlap"):
        assert agreement(value, value, Rules(lists=rule)) == 1.0


@given(values, values)
def test_agreement_stays_between_zero_and_one(right: Any, given_: Any) -> None:
    assert 0.0 <= agreement(right, given_, Rules(lists="overlap")) <= 1.0


@given(st.lists(st.integers(0, 5), max_size=6), st.lists(st.integers(0, 5), max_size=6))
def test_overlap_does_not_depend_on_which_list_is_right(one: list[int], two: list[int]) -> None:
    rules = Rules(lists="overlap")

    assert agreement(one, two, rules) == agreement(two, one, rules)


@given(texts, texts)
def test_token_f1_is_symmetric_and_bounded(one: str, two: str) -> None:
    assert token_f1(one, two) == token_f1(two, one)
    assert 0.0 <= token_f1(one, two) <= 1.0


@given(texts)
def test_a_text_shares_all_words_with_itself(text: str) -> None:
    assert token_f1(text, text) == 1.0


@given(texts)
def test_normal_text_is_a_fixed_point(text: str) -> None:
    assert normal(normal(text)) == normal(text)


@pytest.mark.parametrize(
    ("one", "two", "score"),
    [
        ("The cat sat.", "a cat SAT", 1.0),
        ("two red cups", "red cups", 2 * 2 / 5),
        ("yes", "no", 0.0),
        ("", "", 1.0),
        ("word", "", 0.0),
        ("red red cup", "red cup cup", 2 * 2 / 6),
    ],
)
def test_token_f1_of_cases_worked_by_hand(one: str, two: str, score: float) -> None:
    assert token_f1(one, two) == pytest.approx(score)


def test_articles_and_punctuation_are_no_words() -> None:
    assert tokens("The answer, an_answer: A 'reply'!") == ["answer", "answer", "reply"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12 %", 12.0),
        ("-3.5e2", -350.0),
        (".5", 0.5),
        ("1,204,000.25 dollars", 1204000.25),
        ("between 1 and 2", None),
        ("none", None),
        (float("nan"), None),
        (10**400, None),
        ("1e999", None),
        (True, None),
        (None, None),
    ],
)
def test_numbers_are_read_out_of_texts(text: Any, number: float | None) -> None:
    assert as_number(text) == number
