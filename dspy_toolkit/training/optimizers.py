"""Optimizers and learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dspy_toolkit.training.recipe import OptimizerRecipe, ScheduleRecipe


def make_optimizer(recipe: OptimizerRecipe) -> Any:
    """MLX's optimizer of that name. Adam and AdamW correct their bias, as PyTorch's do."""
    from mlx import optimizers

    options: dict[str, Any] = {
        name: value
        for name in ("betas", "weight_decay", "momentum")
        if (value := getattr(recipe, name)) is not None
    }
    if "betas" in options:
        options["betas"] = list(options["betas"])
    kinds = {
        "adamw": lambda: optimizers.AdamW(recipe.learning_rate, bias_correction=True, **options),
        "adam": lambda: optimizers.Adam(recipe.learning_rate, bias_correction=True, **options),
        "sgd": lambda: optimizers.SGD(recipe.learning_rate, **options),
        "lion": lambda: optimizers.Lion(recipe.learning_rate, **options),
        "muon": lambda: optimizers.Muon(recipe.learning_rate, **options),
        # Its own relative step would pass over the schedule.
        "adafactor": lambda: optimizers.Adafactor(
            recipe.learning_rate, relative_step=False, scale_parameter=False, **options
        ),
    }
    return kinds[recipe.name]()


def learning_rate(recipe: ScheduleRecipe, peak: float, steps: int) -> Callable[[int], float]:
    """The learning rate as a function of the step, from 1 to `steps`.

    It rises in a straight line over the warm-up, is `peak` at its end, and falls by the named
    curve to `final` of `peak` at the last step.
    """
    warmup = recipe.warmup_steps
    final = peak * (recipe.final or 0.0)

    def rate(step: int) -> float:
        if step <= warmup:
            return peak * step / warmup
        if recipe.name == "constant":
            return peak
        done = (step - warmup) / max(1, steps - warmup)
        left = 1 - done if recipe.name == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return final + (peak - final) * left

    return rate
