"""Training on MLX: recipes, runs that survive a kill, heads for typed outputs."""

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
