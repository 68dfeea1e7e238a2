"""Models in memory, and writing them as folders that stock mlx-lm loads."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from dspy_toolkit.compression.subject import Subject
from dspy_toolkit.config import Settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.engine.device import Device, choose_device, limit_memory
from dspy_toolkit.engine.source import weight_files
from dspy_toolkit.engine.weights import load_tokenizer, load_weights
from dspy_toolkit.errors import IntegrityError, StorageError
from dspy_toolkit.store.files import storage_errors, write_json
from dspy_toolkit.training.result import copy_tokenizer


@dataclass(frozen=True)
class Opened:
    """A model in memory.

    Attributes:
        model: mlx-lm's module, in float32 on a CPU unless it was opened as stored.
        folder: where it lies.
        config: its `config.json`.
        device: where it is.
        context: longest sequence in tokens, or None.
    """

    model: Any
    folder: Path
    config: dict[str, Any]
    device: Device
    context: int | None

    @cached_property
    def tokenizer(self) -> Any:
        """mlx-lm's wrapper, loaded when first asked for."""
        return load_tokenizer(self.folder)


def working_device(settings: Settings) -> Device:
    """The device compression works on; loads the BLAS first where that matters."""
    preload_blas(settings.blas)
    device = choose_device(settings.device, settings.dtype)
    limit_memory(device)
    return device


def open_folder(
    folder: Path, config: Mapping[str, Any], device: Device, as_stored: bool = False
) -> Opened:
    """Load a model, for arithmetic as a rule: packed weights are expanded on a CPU.

    Args:
        as_stored: whether weights stay in the type and packing they are stored in instead.

    Raises:
        ModelBroken, EngineError: as `engine.weights.load_weights`.
    """
    loaded = load_weights(folder, None, device, as_stored)
    return Opened(loaded.model, folder, dict(config), device, loaded.context)


def open_subject(subject: Subject, device: Device, as_stored: bool = False) -> Opened:
    """Load the model a technique starts from; see `open_folder`."""
    return open_folder(subject.folder, subject.config, device, as_stored)


def cast(model: Any, dtype: str) -> None:
    """Put the floating-point arrays of a model into a type, in place.

    Raises:
        IntegrityError: a value does not fit the type, or is none.
    """
    kind = getattr(mx, dtype)
    model.update(
        tree_map(
            lambda p: p.astype(kind) if mx.issubdtype(p.dtype, mx.floating) else p,
            model.parameters(),
        )
    )
    mx.eval(model.parameters())
    for name, array in tree_flatten(model.parameters()):
        if mx.issubdtype(array.dtype, mx.floating):
            require_finite(name, array, dtype)


def require_finite(name: str, array: mx.array, dtype: str) -> None:
    """Refuse an array some of whose values are no numbers in its type.

    Raises:
        IntegrityError: there are such.
    """
    if not mx.isfinite(array).all().item():
        raise IntegrityError(
            f"{name} holds a value that is no number in {dtype}; "
            "take a model in bfloat16 or float32, or milder settings"
        )


def write_model(folder: Path, model: Any, config: Mapping[str, Any], source: Path) -> None:
    """Write weights, configuration and tokenizer into an empty folder.

    Args:
        source: the folder of the model it was made of, which has the tokenizer.

    Raises:
        StorageError: the disk is full or refuses.
    """
    from mlx_lm.utils import save_model

    try:
        with storage_errors(folder), silent():
            save_model(folder, model)
        weight_files(folder)
    except RuntimeError as error:
        raise StorageError(
            f"{folder} cannot be written ({' '.join(str(error).split())[:120]}); free some space"
        ) from None
    # It names every tensor once more; the loader asks for it with several files only.
    if len(list(folder.glob("model*.safetensors"))) == 1:
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    write_beside(folder, config, source)


def write_beside(folder: Path, config: Mapping[str, Any], source: Path) -> None:
    """Write what belongs to a model beside its weights; see `write_model`."""
    write_json(folder / "config.json", dict(sorted(config.items())))
    copy_tokenizer(source, folder)


def parameters(model: Any) -> int:
    """How many numbers a model has; packed ones count as what they stand for."""
    count = sum(int(array.size) for _, array in tree_flatten(model.parameters()))
    for _, module in tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module):
        if hasattr(module, "bits"):
            beside = sum(int(module[name].size) for name in ("scales", "biases") if name in module)
            count += int(module.weight.size) * 32 // module.bits - int(module.weight.size) - beside
    return count


def nbytes(model: Any) -> int:
    """Bytes of a model's arrays."""
    return sum(int(array.nbytes) for _, array in tree_flatten(model.parameters()))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what mlx-lm prints, and its bars, out of the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
