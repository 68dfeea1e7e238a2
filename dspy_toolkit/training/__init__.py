"""Training on MLX: recipes, runs that survive a kill, heads for typed outputs."""

from dspy_toolkit.training.recipe import Recipe
from dspy_toolkit.training.recipe_file import load_recipe, recipe_from
from dspy_toolkit.training.runs import resume, train

__all__ = ["Recipe", "load_recipe", "recipe_from", "resume", "train"]
