"""Packed weights: what they cost, which modules can be packed, and doing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten

from dspy_toolkit.compression.subject import Subject, Tensor, Unsupported
from dspy_toolkit.compression.technique import Estimate

MODES = {"affine": (64, 4), "mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}
"""Group size and bits of each of MLX's modes; affine takes others too."""

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class Packing:
    """How numbers are packed.

    Attributes:
        bits: of a number.
        group: numbers that share a scale.
        mode: MLX's name.
    """

    bits: int
    group: int
    mode: str = "affine"

    def nbytes(self, count: int, float_bytes: int) -> int:
        """Bytes of `count` packed numbers with scales (and, with affine, biases)."""
        groups = count // self.group
        beside = 2 * float_bytes if self.mode == "affine" else 1
        return count * self.bits // 8 + groups * beside

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a matrix of a shape can be packed."""
        return len(shape) >= 2 and shape[-1] % self.group == 0

    def settings(self) -> dict[str, Any]:
        """As `config.json` and mlx-lm name them."""
        return {"group_size": self.group, "bits": self.bits, "mode": self.mode}


def packable(subject: Subject, packing: Packing) -> dict[str, Tensor]:
    """The matrices of a model that MLX packs, by module path.

    Raises:
        Unsupported: there are none.
    """
    found = {
        name.removesuffix(".weight"): tensor
        for name, tensor in subject.tensors.items()
        if name.endswith(".weight") and packing.fits(tensor.shape) and "norm" not in name
    }
    if not found:
        raise Unsupported(
            f"no matrix of {subject.reference} has rows that divide into groups of "
            f"{packing.group}; choose --group 32"
        )
    return found


def estimate_packed(subject: Subject, chosen: Mapping[str, Packing], memory_bytes: int) -> Estimate:
    """Size of a model some of whose matrices are packed.

    Args:
        chosen: packing by module path.
        memory_bytes: needed while working, beside the model in float32.
    """
    width = 4 if subject.dtype == "float32" else 2
    size = sum(
        chosen[path].nbytes(tensor.size, width)
        if (path := name.removesuffix(".weight")) in chosen and name.endswith(".weight")
        else tensor.size * width
        for name, tensor in subject.tensors.items()
    )
    return Estimate(
        parameters=subject.parameters,
        disk_bytes=size,
        memory_bytes=4 * subject.parameters + size + memory_bytes,
    )


def pack(
    model: Any, config: Mapping[str, Any], default: Packing, chosen: Callable[[str], Packing | None]
) -> dict[str, Any]:
    """Pack a model in place.

    Args:
        default: what `config.json` names for the whole model.
        chosen: packing of a module by its path, or None to leave it plain.

    Returns:
        The new configuration, as mlx-lm writes it.
    """
    written: dict[str, Any] = default.settings()

    def predicate(path: str, module: Any) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized"):
            return False
        rule = own_rule(model, path, module)
        if isinstance(rule, dict):
            written[path] = rule
            return rule
        packing = chosen(path)
        if not rule or packing is None or not packing.fits(tuple(module.weight.shape)):
            return False
        if packing == default:
            return True
        written[path] = packing.settings()
        return packing.settings()

    nn.quantize(model, default.group, default.bits, mode=default.mode, class_predicate=predicate)
    return {**config, "quantization": written, "quantization_config": written}


def own_rule(model: Any, path: str, module: Any) -> bool | dict[str, Any]:
    """What mlx-lm's class of a model says about packing a module: whether, or how instead."""
    rule = getattr(model, "quant_predicate", None)
    told: bool | dict[str, Any] = True if rule is None else rule(path, module)
    return told


def packed_modules(model: Any) -> dict[str, Any]:
    """Modules with packed weights by path."""
    leaves = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    return {path: module for path, module in leaves if hasattr(module, "bits")}


def plain_modules(model: Any) -> dict[str, Any]:
    """Modules that could be packed, by path."""
    leaves = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    return {path: module for path, module in leaves if hasattr(module, "to_quantized")}
