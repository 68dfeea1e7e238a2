from __future__ import annotations

import dspy
import pytest

from dspy_toolkit.programs.task import load_task
from tests.examples.reading import COUNTS, EXAMPLES, TASKS


@pytest.mark.parametrize("name", TASKS)
def test_the_task_loads_and_builds_its_program(name: str) -> None:
    task = load_task(EXAMPLES / name)

    assert task.name == name
    assert {split: len(task.data.split(split).examples) for split in COUNTS} == COUNTS
    assert len(task.program().predictors()) == 1


@pytest.mark.parametrize("name", TASKS)
def test_right_answers_score_one_and_those_to_another_example_less(name: str) -> None:
    task = load_task(EXAMPLES / name)
    examples = task.data.test.examples
    answers = [dspy.Prediction(**example.labels().toDict()) for example in examples]
    shifted = [*answers[1:], answers[0]]
    others = sum(float(task.metric(*pair)) for pair in zip(examples, shifted, strict=True))

    assert all(task.metric(*pair) == 1.0 for pair in zip(examples, answers, strict=True))
    assert others < 0.6 * len(examples)


@pytest.mark.parametrize("name", TASKS)
def test_either_the_embedded_model_is_used_or_a_larger_one_is_asked_for(name: str) -> None:
    task = load_task(EXAMPLES / name)

    assert (task.model == "embedded") != bool(task.needs_larger_model)
