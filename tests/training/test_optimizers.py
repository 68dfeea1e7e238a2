from __future__ import annotations

from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.training.optimizers import learning_rate, make_optimizer
from dspy_toolkit.training.recipe import OptimizerRecipe, ScheduleRecipe


@pytest.mark.parametrize(
    ("recipe", "step", "expected"),
    [
        (ScheduleRecipe(), 1, 1.0),
        (ScheduleRecipe(), 10, 1.0),
        (ScheduleRecipe(warmup_steps=4), 1, 0.25),
        (ScheduleRecipe(warmup_steps=4), 4, 1.0),
        (ScheduleRecipe(name="linear"), 5, 0.5),
        (ScheduleRecipe(name="linear"), 10, 0.0),
        (ScheduleRecipe(name="linear", final=0.2), 10, 0.2),
        (ScheduleRecipe(name="linear", warmup_steps=2), 6, 0.5),
        (ScheduleRecipe(name="cosine"), 5, 0.5),
        (ScheduleRecipe(name="cosine", final=0.1), 10, 0.1),
    ],
)
def test_learning_rate_by_hand(recipe: ScheduleRecipe, step: int, expected: float) -> None:
    assert learning_rate(recipe, 1.0, 10)(step) == pytest.approx(expected, abs=1e-12)


schedules = st.builds(
    ScheduleRecipe,
    name=st.sampled_from(["constant", "cosine", "linear"]),
    warmup_steps=st.integers(0, 20),
    final=st.one_of(st.none(), st.floats(0, 1)),
)


@given(schedules, st.floats(1e-6, 1.0), st.integers(21, 60))
def test_a_rate_rises_over_the_warm_up_and_never_after(
    recipe: ScheduleRecipe, peak: float, steps: int
) -> None:
    rate = learning_rate(recipe, peak, steps)
    rates = [rate(step) for step in range(1, steps + 1)]
    warm, rest = rates[: recipe.warmup_steps], rates[recipe.warmup_steps :]

    assert warm == sorted(warm)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(rest))
    assert all(0.0 <= each <= peak * (1 + 1e-12) for each in rates)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lion", "muon", "adafactor"])
def test_every_optimizer_follows_the_rate_it_is_given(name: str) -> None:
    optimizer = make_optimizer(OptimizerRecipe(name=name, learning_rate=0.5))
    layer = nn.Linear(4, 4, bias=False)
    before = layer.weight
    gradients = {"weight": mx.ones((4, 4))}

    optimizer.init(layer.trainable_parameters())
    optimizer.learning_rate = 0.0
    optimizer.update(layer, gradients)
    still = mx.allclose(layer.weight, before).item()
    optimizer.learning_rate = 0.1
    optimizer.update(layer, gradients)

    assert still
    assert not mx.allclose(layer.weight, before).item()


def test_adam_corrects_its_bias() -> None:
    optimizer = make_optimizer(OptimizerRecipe(name="adam", learning_rate=0.1))
    layer = nn.Linear(1, 1, bias=False)
    before = layer.weight.item()

    optimizer.update(layer, {"weight": mx.array([[3.0]])})

    assert before - layer.weight.item() == pytest.approx(0.1, rel=1e-4)
