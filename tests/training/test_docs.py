from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

from dspy_toolkit.training.recipe import Recipe
from dspy_toolkit.training.recipe_file import recipe_from
from dspy_toolkit.training.wording import read_wording

TEXT = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


def test_every_recipe_of_the_guide_is_one(tmp_path: Path) -> None:
    recipes = [block for block in BLOCKS if "[model]" in block]

    read = [recipe_from(tomllib.loads(block), "guide", tmp_path) for block in recipes]

    assert [recipe.name for recipe in read] == ["triage_adapter", "tiny"]


def test_the_wording_file_of_the_guide_is_one(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if "[[synonyms]]" in block)
    (tmp_path / "wording.toml").write_text(block)

    assert read_wording(tmp_path / "wording.toml").paraphrases


def test_the_guide_names_every_key_of_a_recipe() -> None:
    rows = dict(re.findall(r"^\| `\[(\w+)\]` \| (.*) \|$", TEXT, re.MULTILINE))

    for field in dataclasses.fields(Recipe):
        if field.name in ("name", "seed"):
            continue
        kind = recipe_table(field.name)
        named = set(re.findall(r"`(\w+)`", rows[field.name]))
        assert named == {each.name for each in dataclasses.fields(kind)}, field.name


def recipe_table(name: str) -> type:
    from dspy_toolkit.training import recipe

    kinds = {"training": "Steps", "augment": "Augment"}
    found: type = getattr(recipe, f"{kinds.get(name, name.capitalize())}Recipe")
    return found
