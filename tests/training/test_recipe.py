from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.errors import InvalidInput, NotFound, UnknownKey
from dspy_toolkit.training.recipe_file import load_recipe, recipe_from
from dspy_toolkit.training.tables import InvalidRecipe
from tests.training import tiny
from tests.training.conftest import RecipeMaker, Values, merged


def test_a_recipe_file_is_read_with_paths_relative_to_it(tmp_path: Path, values: Values) -> None:
    given = merged(values, {"data": {"train": "data/train.jsonl"}})
    file = tiny.write_toml(tmp_path / "recipe.toml", given)

    recipe = load_recipe(file)

    assert recipe.data.train == (tmp_path / "data" / "train.jsonl",)
    assert recipe.model.config == tiny.CONFIG
    assert recipe.training.batch_size == 2


def test_a_recipe_written_as_json_values_is_read_back_equal(recipe: RecipeMaker) -> None:
    made = recipe({"schedule": {"name": "cosine", "warmup_steps": 2}, "augment": {"formatting": 1}})

    assert recipe_from(made.to_dict(), "recipe", Path("/elsewhere")) == made


def test_a_base_folder_beside_the_recipe_becomes_absolute(tmp_path: Path, values: Values) -> None:
    (tmp_path / "base").mkdir()
    given = merged(values, {"model": {"base": "base", "config": None, "tokenizer": None}})

    assert recipe_from(given, "recipe", tmp_path).model.base == str(tmp_path / "base")


WRONG_KEYS: list[tuple[Mapping[str, Any], str]] = [
    ({"optimiser": {}}, r"unknown key 'optimiser'; did you mean 'optimizer'\?"),
    ({"optimizer": {"learning_rat": 1}}, r"\[optimizer\]: unknown key.*'learning_rate'\?"),
    ({"data": {"valid": "x"}}, r"\[data\]: unknown key 'valid'; did you mean 'validation'\?"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG_KEYS)
def test_an_unknown_key_names_the_nearest_one(
    recipe: RecipeMaker, changes: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(UnknownKey, match=says):
        recipe(changes)


WRONG_VALUES: list[tuple[Mapping[str, Any], str]] = [
    ({"name": None}, "name is missing"),
    ({"name": "a/b"}, "must consist of letters"),
    ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ({"training": None}, r"training is missing; add a table \[training\]"),
    ({"training": 3}, r"training must be a table"),
    ({"training": {"batch_size": 0}}, "batch_size must be a whole number of at least 1"),
    ({"training": {"batch_size": 2.0}}, "batch_size must be a whole number"),
    ({"training": {"clip_norm": 0}}, "clip_norm must be a number above 0"),
    ({"training": {"steps": True}}, "steps must be a whole number"),
    ({"optimizer": {"name": "lyon"}}, "must be one of .*; did you mean 'lion'"),
    ({"optimizer": {"learning_rate": float("nan")}}, "learning_rate must be a number above 0"),
    ({"optimizer": {"betas": [0.9]}}, "betas must be a list of two numbers"),
    ({"data": {"train": []}}, "train must be a path or a list of paths"),
    ({"data": {"packing": "yes"}}, "packing must be true or false"),
    ({"model": {"mode": "lorra"}}, "did you mean 'lora'"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG_VALUES)
def test_a_wrong_value_is_named_with_what_it_must_be(
    recipe: RecipeMaker, changes: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(InvalidRecipe, match=says):
        recipe(changes)


BASE = {"base": "embedded", "config": None, "tokenizer": None}
CONTRADICTIONS: list[tuple[Mapping[str, Any], str]] = [
    ({"model": {"base": "embedded"}}, r"needs either base or a table \[model.config\]"),
    ({"model": {"config": None}}, r"needs either base or a table \[model.config\]"),
    ({"model": {"tokenizer": None}}, "needs tokenizer"),
    ({"model": {"mode": "lora"}}, r"adapts a base, but \[model.config\] makes a new one"),
    ({"model": {**BASE, "tokenizer": "x"}}, "brings its own tokenizer"),
    ({"model": BASE, "adapter": {"rank": 2}}, "goes with mode 'lora' or 'dora'"),
    ({"data": {"generator": "a.py:f"}}, "needs either train or generator"),
    ({"data": {"train": None}}, "needs either train or generator"),
    ({"data": {"train": None, "generator": "a.py"}}, "must be 'file.py:function'"),
    ({"data": {"packing": False, "attention": "row"}}, "packing is false"),
    ({"data": {"train": None, "generator": "a.py:f"}, "augment": {"formatting": 1}}, "generator"),
    ({"augment": {"copies": 2}}, "changes nothing"),
    ({"augment": {"formatting": 1, "wording_rate": 0.5}}, "go together"),
    ({"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}}, "sgd has no betas"),
    ({"optimizer": {"momentum": 0.9}}, "adamw has no momentum"),
    ({"schedule": {"final": 0.1}}, "constant rate has no final"),
    ({"schedule": {"warmup_steps": 8}}, r"warmup_steps \(8\) must be fewer than the 8 steps"),
    ({"training": {"epochs": 2}}, "either steps or epochs"),
    ({"training": {"steps": None}}, "either steps or epochs"),
    ({"training": {"workers": 3}}, r"workers \(3\) share out the 2 rows"),
    ({"loss": {"smoothing": 0.1}}, "cross_entropy has no smoothing"),
    ({"loss": {"name": "kl"}}, "kl needs teacher"),
    ({"training": {"evaluate_every": 2}}, "evaluate_every needs"),
    ({"data": {"validation": "v.jsonl"}}, "never used without"),
    ({"checkpoint": {"keep_best": 1}}, "keep_best needs"),
    (
        {
            "data": {"validation": "v.jsonl"},
            "training": {"evaluate_every": 2},
            "checkpoint": {"keep_best": 1},
        },
        r"every \(3\) must be a multiple of evaluate_every \(2\)",
    ),
    ({"result": {"weights": "best"}}, "keep_best of at least 1"),
]


@pytest.mark.parametrize(("changes", "says"), CONTRADICTIONS)
def test_a_recipe_that_contradicts_itself_is_refused(
    recipe: RecipeMaker, changes: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(InvalidRecipe, match=says) as caught:
        recipe(changes)

    assert "\n" not in str(caught.value)


def test_the_given_table_is_left_as_it_was(values: Values, data_folder: Path) -> None:
    before = copy.deepcopy(values)

    recipe_from(values, "recipe", data_folder)

    assert values == before


def test_a_missing_file_and_broken_toml_are_one_line_errors(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("name = \n")

    with pytest.raises(NotFound, match=r"recipe .* does not exist"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(InvalidInput, match=r"broken.toml is not valid TOML: .*line 1"):
        load_recipe(broken)
