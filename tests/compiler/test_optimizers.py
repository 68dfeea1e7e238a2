from __future__ import annotations

import inspect
from typing import Any

import dspy
import dspy.teleprompt
import pytest

from dspy_toolkit.compiler.dspy_scope import corrected
from dspy_toolkit.compiler.optimizers import OPTIMIZERS, Work, optimizer, shuffled
from dspy_toolkit.errors import InvalidInput, UnknownKey
from dspy_toolkit.programs.metrics import named_metric
from tests.programs.tasks import learner, rows, scripted_lm

SIGNATURE = dspy.Signature("text: str -> team: str, urgent: bool")


def examples(split: str, count: int) -> list[dspy.Example]:
    return [dspy.Example(**row).with_inputs("text") for row in rows(split, count)]


def compiled(name: str, seed: int, **options: Any) -> tuple[dspy.Module, int]:
    lm = scripted_lm(learner)
    metric = named_metric("per_field", ["team", "urgent"])
    work = Work(shuffled(examples("train", 20), seed), examples("validation", 8), metric, 4)
    row = optimizer(name)
    with corrected(lambda line: None), dspy.context(lm=lm):
        program = row.compile(dspy.Predict(SIGNATURE), work, row.settle(options))
    return program, len(lm.engine.requests)


def demos(program: dspy.Module) -> list[str]:
    return [demo["text"] for demo in program.predictors()[0].demos]


SMALL = {
    "labeled_few_shot": {"k": 4},
    "bootstrap_few_shot": {"max_bootstrapped_demos": 2, "max_labeled_demos": 4},
    "bootstrap_few_shot_with_random_search": {
        "max_bootstrapped_demos": 2,
        "max_labeled_demos": 4,
        "num_candidate_programs": 2,
    },
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_adds_demonstrations_of_the_training_split(name: str) -> None:
    program, _ = compiled(name, 0, **SMALL[name])

    assert 1 <= len(demos(program)) <= 4
    assert all(text.startswith("train") for text in demos(program))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_seed_gives_the_same_program_and_another_another(name: str) -> None:
    once, again, other = (compiled(name, seed, **SMALL[name])[0] for seed in (1, 1, 2))

    assert once.dump_state() == again.dump_state()
    assert demos(once) != demos(other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_evaluations_foretold_are_made(name: str) -> None:
    _, calls = compiled(name, 0, **SMALL[name])
    row = optimizer(name)
    foretold = row.evaluations(row.settle(SMALL[name]), 20, 8)

    # Bootstrapping asks a few training examples beside those counted.
    assert foretold is None or foretold <= calls <= foretold + 20


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_are_those_of_the_dspy_class_with_its_defaults(name: str) -> None:
    row = optimizer(name)
    known = inspect.signature(getattr(dspy.teleprompt, row.dspy_class)).parameters

    assert {each.name: each.default for each in row.options} == {
        each.name: known[each.name].default for each in row.options
    }


def test_a_score_to_stop_at_is_a_fraction() -> None:
    name = "bootstrap_few_shot_with_random_search"
    _, early = compiled(name, 0, **SMALL[name], stop_at_score=0.3)
    _, late = compiled(name, 0, **SMALL[name], stop_at_score=1.0)

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


def test_unknown_names_and_options_lead_to_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'labeled_few_shot'"):
        optimizer("labelled_few_shot")
    with pytest.raises(UnknownKey, match="unknown key 'max_rouns'; did you mean 'max_rounds'"):
        optimizer("bootstrap_few_shot").settle({"max_rouns": 1})
