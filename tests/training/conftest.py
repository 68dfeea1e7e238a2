"""Real parts, made once: a tokenizer, a small trained-from-scratch recipe, a base model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.training.recipe import Recipe
from dspy_toolkit.training.recipe_file import recipe_from
from tests.training import tiny

preload_blas()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("tiny") / "tokenizer")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Any:
    from mlx_lm.utils import load_tokenizer

    return load_tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    examples = [tiny.example(i) for i in range(48)]
    tiny.write_lines(folder / "train.jsonl", [e for i, e in enumerate(examples) if i % 4])
    tiny.write_lines(folder / "validation.jsonl", examples[::4])
    return folder


Values = dict[str, Any]
RecipeMaker = Callable[[Mapping[str, Any]], Recipe]


@pytest.fixture(scope="session")
def values(tokenizer_folder: Path, data_folder: Path) -> Values:
    """A recipe that trains a new model, as a table."""
    return {
        "name": "tiny",
        "seed": 3,
        "model": {"tokenizer": str(tokenizer_folder), "config": dict(tiny.CONFIG)},
        "data": {"train": str(data_folder / "train.jsonl"), "sequence_length": 64},
        "optimizer": {"learning_rate": 3e-3},
        "training": {"steps": 8, "batch_size": 2, "report_every": 2},
        "checkpoint": {"every": 3},
    }


@pytest.fixture(scope="session")
def recipe(values: Values, data_folder: Path) -> RecipeMaker:
    """Makes the recipe with some tables changed; a table that is None is left out."""

    def make(changes: Mapping[str, Any]) -> Recipe:
        return recipe_from(merged(values, changes), "recipe", data_folder)

    return make


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> Values:
    """Nested tables, with some values changed; None removes one."""
    result = dict(values)
    for key, change in changes.items():
        if change is None:
            result.pop(key, None)
        elif isinstance(change, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], change)
        else:
            result[key] = change
    return result


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def trained(recipe: RecipeMaker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a model trained from scratch until it knows the topics."""
    from dspy_toolkit.training import train

    made = recipe(
        {
            "data": {
                "validation": "validation.jsonl",
                "test": "validation.jsonl",
            },
            "training": {"steps": 60, "batch_size": 4, "evaluate_every": 10, "clip_norm": 1.0},
            "checkpoint": {"every": 20, "keep_best": 1, "keep_last": 1},
            "result": {"weights": "best"},
        }
    )
    return train(made, Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture
def adapting(trained: dict[str, Any]) -> Values:
    """Changes that make the recipe adapt the trained model."""
    return {
        "name": "adapted",
        "model": {"base": trained["result"], "mode": "lora", "config": None, "tokenizer": None},
        "adapter": {"rank": 2, "dropout": 0.1},
    }


@pytest.fixture
def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the disk report no free space from the given question on."""
    import shutil

    def fill(question: int) -> None:
        asked = 0
        plain = shutil.disk_usage

        def usage(path: Any) -> Any:
            nonlocal asked
            asked += 1
            return plain(path) if asked < question else type(plain(path))(1, 1, 0)

        monkeypatch.setattr(shutil, "disk_usage", usage)

    return fill
