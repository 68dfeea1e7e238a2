"""What a training run hands over: a model folder or an adapter that mlx-lm loads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from dspy_toolkit.store.files import new_folder, storage_errors, write_json
from dspy_toolkit.store.manifest import write_manifest
from dspy_toolkit.training.checkpoints import Arrays, save_arrays
from dspy_toolkit.training.models import StartingModel, adapter_parameters
from dspy_toolkit.training.recipe import AdapterRecipe, Recipe
from dspy_toolkit.training.tables import InvalidRecipe

_NOT_COPIED = ("config.json", "manifest.json", "model.safetensors.index.json")
_COPIED = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt")


def write_result(
    place: Path, recipe: Recipe, start: StartingModel, weights: Arrays, facts: Mapping[str, Any]
) -> Path:
    """Write the trained weights where `place` does not exist yet.

    Args:
        place: a model folder with mode "full", an adapter folder otherwise.
        recipe: how they were trained.
        start: what they were trained from.
        weights: trained arrays by path in the model.
        facts: for the manifest.

    Raises:
        StorageError: the disk is full or refuses; `place` does not appear.
    """
    cast = _cast(weights, recipe.result.dtype)
    with new_folder(place) as folder:
        if recipe.model.mode == "full":
            save_arrays(folder / "model.safetensors", cast)
            write_json(folder / "config.json", _config(start.config, cast))
            copy_tokenizer(start.folder, folder)
        else:
            save_arrays(folder / "adapters.safetensors", cast)
            write_json(folder / "adapter_config.json", _adapter_config(recipe, start))
        write_manifest(folder, facts)
    return place


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy what belongs to a model beside weights and configuration."""
    with storage_errors(target):
        for pattern in _COPIED:
            for file in sorted(source.glob(pattern)):
                if file.is_file() and file.name not in _NOT_COPIED:
                    shutil.copyfile(file, target / file.name)


def _config(config: Mapping[str, Any], weights: Arrays) -> dict[str, Any]:
    types = {str(each.dtype).removeprefix("mlx.core.") for each in weights.values()}
    return {**config, "torch_dtype": sorted(types)[0]}


def _adapter_config(recipe: Recipe, start: StartingModel) -> dict[str, Any]:
    adapter = recipe.adapter or AdapterRecipe()
    return {
        "model": recipe.model.base,
        "fine_tune_type": recipe.model.mode,
        "num_layers": adapter.layers or len(start.model.layers),
        "lora_parameters": adapter_parameters(adapter),
    }


def _cast(weights: Arrays, dtype: str) -> dict[str, Any]:
    if dtype == "auto":
        return dict(weights)
    kind = getattr(mx, dtype)
    cast = {
        name: each.astype(kind) if mx.issubdtype(each.dtype, mx.floating) else each
        for name, each in weights.items()
    }
    mx.eval(cast)
    for name, each in cast.items():
        if not mx.isfinite(each).all().item():
            raise InvalidRecipe(
                f"{name} does not fit {dtype}: a value is too large; "
                'set dtype = "bfloat16" or "float32" in [result]'
            )
    return cast
