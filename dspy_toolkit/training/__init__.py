"""Training on MLX: recipes, runs that survive a kill, heads for typed outputs.

The public names are loaded when first used: most of what trains needs a part of them only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspy_toolkit.training.head_options import HeadExample, HeadLoss, HeadOptions
    from dspy_toolkit.training.head_runs import examples_of, load_heads, train_heads
    from dspy_toolkit.training.recipe import Recipe
    from dspy_toolkit.training.recipe_file import load_recipe, recipe_from
    from dspy_toolkit.training.runs import resume, train

__all__ = [
    "HeadExample",
    "HeadLoss",
    "HeadOptions",
    "Recipe",
    "examples_of",
    "load_heads",
    "load_recipe",
    "recipe_from",
    "resume",
    "train",
    "train_heads",
]

_HOMES = {
    "HeadExample": "head_options",
    "HeadLoss": "head_options",
    "HeadOptions": "head_options",
    "Recipe": "recipe",
    "examples_of": "head_runs",
    "load_heads": "head_runs",
    "load_recipe": "recipe_file",
    "recipe_from": "recipe_file",
    "resume": "runs",
    "train": "runs",
    "train_heads": "head_runs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
