"""Rounding a model's matrices by their names, without building the model.

What mlx-lm imports on its way to a model takes more time and memory than packing a small one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from dspy_toolkit.compression.layout import Layout, known_shapes, layout_of
from dspy_toolkit.compression.opened import require_finite, write_beside
from dspy_toolkit.compression.packing import Packing, packable
from dspy_toolkit.compression.subject import PLAIN_TYPES, Subject, Unsupported
from dspy_toolkit.engine.source import weight_files
from dspy_toolkit.errors import IntegrityError
from dspy_toolkit.training.checkpoints import load_arrays, save_arrays

_ONE_FILE_BYTES = 5 << 30
"""Beyond it mlx-lm writes several."""


def is_stack(subject: Subject) -> bool:
    """Whether a model's arrays are those its configuration says, all of them known by name.

    One that is not may still be a model; mlx-lm has to say so.
    """
    plain = all(tensor.dtype in PLAIN_TYPES for tensor in subject.tensors.values())
    if not plain or subject.nbytes > _ONE_FILE_BYTES:
        return False
    try:
        layout: Layout = layout_of(subject)
        wanted = known_shapes(subject.config, layout)
    except (Unsupported, KeyError, TypeError, ValueError, ZeroDivisionError):
        return False
    return wanted == {name: tensor.shape for name, tensor in subject.tensors.items()}


def pack_files(subject: Subject, packing: Packing, folder: Path) -> dict[str, Any]:
    """Write a model all of whose matrices are packed alike into an empty folder.

    Args:
        subject: one that `is_stack`.
        folder: gets weights, configuration and tokenizer, as mlx-lm's own rounding writes them.

    Returns:
        Measures for the manifest.

    Raises:
        StorageError: the disk is full or refuses.
        IntegrityError: a value does not fit the type, or what was written is not there.
    """
    matrices = packable(subject, packing)
    arrays = dict(_packed(subject, packing, set(matrices)))
    file = folder / "model.safetensors"
    save_arrays(file, arrays)
    stored = load_arrays(file)
    if stored.keys() != arrays.keys() or not all(
        mx.array_equal(stored[name], array).item() for name, array in arrays.items()
    ):
        raise IntegrityError(f"{file} was not written as it is; check the disk, try again")
    settings = packing.settings()
    config = {**subject.config, "quantization": settings, "quantization_config": settings}
    write_beside(folder, config, subject.folder)
    return {"bytes": sum(array.nbytes for array in arrays.values()), "packed": len(matrices)}


def _packed(
    subject: Subject, packing: Packing, matrices: set[str]
) -> Iterator[tuple[str, mx.array]]:
    kind = getattr(mx, subject.dtype)
    for file in weight_files(subject.folder):
        # Read one by one, when they are asked for.
        arrays: Any = mx.load(str(file))
        for name in sorted(arrays):
            array = arrays.pop(name).astype(kind)
            require_finite(name, array, subject.dtype)
            path = name.removesuffix(".weight")
            if path not in matrices:
                yield name, array
                continue
            parts = mx.quantize(
                array, group_size=packing.group, bits=packing.bits, mode=packing.mode
            )
            mx.eval(parts)
            yield from zip((name, f"{path}.scales", f"{path}.biases"), parts, strict=False)
