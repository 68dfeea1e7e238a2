from __future__ import annotations

import inspect
from typing import Any

import dspy
import dspy.teleprompt
import pytest

from dspy_toolkit.compiler.dspy_scope import corrected
from dspy_toolkit.compiler.optimizers import OPTIMIZERS, Sizes, Work, optimizer, shuffled
from dspy_toolkit.errors import InvalidInput, NotFound, UnknownKey
from dspy_toolkit.programs.metrics import named_metric
from tests.programs.tasks import learner, rows, scripted_lm

SIGNATURE = dspy.Signature("text: str -> team: str, urgent: bool")


def compiled(name: str, **options: Any) -> int:
    """How many calls an optimizer makes."""
    lm = scripted_lm(learner)
    metric = named_metric("per_field", ["team", "urgent"])
    train, validation = (
        [dspy.Example(**row).with_inputs("text") for row in rows(split, count)]
        for split, count in (("train", 20), ("validation", 8))
    )
    work = Work(shuffled(train, 0), validation, metric, 4)
    row = optimizer(name)
    with corrected(lambda line: None), dspy.context(lm=lm):
        row.compile(dspy.Predict(SIGNATURE), work, row.settle(options))
    return len(lm.engine.requests)


@pytest.mark.parametrize(
    "name", [name for name, row in OPTIMIZERS.items() if row.dspy_class and row.options]
)
def test_options_named_as_dspys_have_its_defaults(name: str) -> None:
    row = optimizer(name)
    assert row.dspy_class is not None
    known = inspect.signature(getattr(dspy.teleprompt, row.dspy_class)).parameters
    shared = [each for each in row.options if each.name in known]
    # DSPy has no default there, or one that stands for another value of ours.
    own = {"auto", "k", "max_positive_inputs", "max_negative_inputs", "size"}

    assert {each.name: each.default for each in shared if each.name not in own} == {
        each.name: known[each.name].default for each in shared if each.name not in own
    }


def test_a_score_to_stop_at_is_a_fraction() -> None:
    name = "bootstrap_few_shot_with_random_search"
    small = {"max_bootstrapped_demos": 2, "max_labeled_demos": 4, "num_candidate_programs": 2}
    early = compiled(name, **small, stop_at_score=0.3)
    late = compiled(name, **small, stop_at_score=1.0)

    assert early == 8
    assert late > early


@pytest.mark.parametrize(
    ("given", "settled"),
    [({"k": "7"}, 7), ({"k": 3}, 3), ({}, 16)],
)
def test_options_come_as_texts_or_numbers(given: dict[str, Any], settled: int) -> None:
    assert optimizer("labeled_few_shot").settle(given) == {"k": settled}


@pytest.mark.parametrize("value", ["many", "2.5", 0, -1, 2.5, True, None, [1]])
def test_an_option_that_does_not_fit_is_named(value: Any) -> None:
    with pytest.raises(InvalidInput, match="optimizer option k must be a whole number from 1, got"):
        optimizer("labeled_few_shot").settle({"k": value})


@pytest.mark.parametrize("value", ["nan", 1.5, -0.1])
def test_a_score_outside_the_scale_is_named(value: Any) -> None:
    with pytest.raises(InvalidInput, match="stop_at_score must be a number from 0 to 1"):
        optimizer("bootstrap_few_shot_with_random_search").settle({"stop_at_score": value})


@pytest.mark.parametrize(("text", "truth"), [("true", True), ("no", False), (True, True)])
def test_truths_come_as_words_too(text: Any, truth: bool) -> None:
    assert optimizer("knn_few_shot").settle({"bootstrap": text})["bootstrap"] is truth


@pytest.mark.parametrize("value", ["perhaps", 1, None])
def test_what_is_no_truth_is_named(value: Any) -> None:
    with pytest.raises(InvalidInput, match="option bootstrap must be true or false, got"):
        optimizer("knn_few_shot").settle({"bootstrap": value})


def test_a_text_outside_its_choices_leads_to_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="auto 'lite' unknown; did you mean 'light'"):
        optimizer("miprov2").settle({"auto": "lite"})


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"num_trials": 3}, "set auto = off"), ({"auto": "off"}, "needs num_candidates and")],
)
def test_miprov2_takes_its_size_in_one_way(given: dict[str, Any], missing: str) -> None:
    row = optimizer("miprov2")

    with pytest.raises(InvalidInput, match=missing):
        row.cost(row.settle(given), Sizes(80, 80))


def test_too_few_examples_are_named_with_the_number_needed() -> None:
    row = optimizer("simba")

    with pytest.raises(InvalidInput, match="simba needs at least 32 training examples"):
        row.check(row.settle({}), train=20)


def test_unknown_names_and_options_lead_to_the_nearest() -> None:
    with pytest.raises(NotFound, match="did you mean 'labeled_few_shot'"):
        optimizer("labelled_few_shot")
    with pytest.raises(UnknownKey, match="unknown key 'max_rouns'; did you mean 'max_rounds'"):
        optimizer("bootstrap_few_shot").settle({"max_rouns": 1})
