"""Reading `RECIPE.toml`, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dspy_toolkit.store.files import parse_toml, read_text
from dspy_toolkit.training import tables
from dspy_toolkit.training.contradictions import contradictions
from dspy_toolkit.training.recipe import Recipe
from dspy_toolkit.training.tables import InvalidRecipe


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file. Paths in it are relative to its folder.

    Raises:
        NotFound: there is no such file. UnknownKey: a key is none of a recipe's.
        InvalidInput: it is not TOML. InvalidRecipe: a value is wrong, missing or contradicts
            another.
    """
    where = f"recipe {path}"
    return recipe_from(parse_toml(read_text(path, "recipe"), where), where, path.absolute().parent)


def recipe_from(values: Mapping[str, Any], where: str, folder: Path) -> Recipe:
    """Make a recipe of a mapping; see `load_recipe`."""
    recipe = tables.read_table(Recipe, values, where, folder)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", recipe.name):
        raise InvalidRecipe(
            f"{where}: name must consist of letters, digits, '_', '-' and '.', got {recipe.name!r}"
        )
    recipe = _with_absolute_folders(recipe, folder)
    found = next(contradictions(recipe), None)
    if found is not None:
        raise InvalidRecipe(f"{where}: {found}")
    return recipe


def _with_absolute_folders(recipe: Recipe, folder: Path) -> Recipe:
    """Let model folders, too, be relative to the recipe; anything else stays a reference."""

    def absolute(reference: str | None) -> str | None:
        if reference is not None and (folder / reference).is_dir():
            return str(folder / reference)
        return reference

    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, base=absolute(recipe.model.base)),
        loss=dataclasses.replace(recipe.loss, teacher=absolute(recipe.loss.teacher)),
        data=dataclasses.replace(recipe.data, generator=_place(recipe.data.generator, folder)),
    )


def _place(generator: str | None, folder: Path) -> str | None:
    if generator is None or ":" not in generator:
        return generator
    file, _, function = generator.rpartition(":")
    return f"{folder / Path(file).expanduser()}:{function}"
