"""Rotary positions on a CPU: their sines and cosines once a step, not twice in every layer.

MLX makes them anew in each call there, in fourteen small operations, of which each costs as much as
the arithmetic of a narrow step. What comes out is the same, bit for bit.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn

_Table = tuple[mx.array, mx.array]


class Rotary(nn.Module):  # type: ignore[misc]  # MLX ships no types
    """Stands around an `nn.RoPE` that turns whole heads of float32."""

    def __init__(self, part: nn.RoPE, angles: _Angles) -> None:
        super().__init__()
        self.part = part
        self._angles = angles

    def __call__(self, heads: mx.array, offset: int | mx.array = 0) -> mx.array:
        """Turn (rows, heads, width, size), of which each row begins at its offset.

        An offset (1, width) is that of each token.
        """
        part, size = self.part, heads.shape[-1]
        if heads.dtype != mx.float32 or heads.ndim != 4 or size != part.dims:
            usual: mx.array = part(heads, offset=offset)
            return usual
        cosines, sines = self._angles.table(part, offset, heads.shape[2])
        halves = [heads[..., size // 2 :], heads[..., : size // 2]]
        return heads * cosines + mx.concatenate(halves, axis=-1) * sines


class _Angles:
    """The tables of the step that runs, by what they depend on besides its offset."""

    def __init__(self) -> None:
        self._offset: int | mx.array | None = None
        self._tables: dict[tuple[int, int, float, float], _Table] = {}

    def table(self, rope: nn.RoPE, offset: int | mx.array, width: int) -> _Table:
        """Cosines, and sines whose first half is negative: (rows or none, 1, width, size)."""
        # A look at an array's values would wait for it. `Slots.aim` makes a new one for each step.
        if offset is not self._offset:
            self._offset = offset
            self._tables.clear()
        key = (width, rope.dims, rope.base, rope.scale)
        if key not in self._tables:
            self._tables[key] = _table(offset, *key)
        return self._tables[key]


def _table(offset: int | mx.array, width: int, size: int, base: float, scale: float) -> _Table:
    if isinstance(offset, mx.array) and offset.ndim == 2:
        # Each token of a line of packed rows has its own.
        places = offset[:, None].astype(mx.float32) * scale
    else:
        rows = offset[:, None, None] if isinstance(offset, mx.array) and offset.ndim else offset
        places = (mx.arange(width, dtype=mx.float32) + rows) * scale
    half = size // 2
    turns = mx.exp(mx.arange(0, -half, -1, dtype=mx.float32) * (math.log(base) / half))
    angles = places[..., None] * turns
    cosines, sines = mx.cos(angles), mx.sin(angles)
    return mx.concatenate([cosines, cosines], -1), mx.concatenate([-sines, sines], -1)


def share_angles(model: Any) -> None:
    """Put a `Rotary` around each plain `nn.RoPE` of a model that has none yet."""
    angles = _Angles()
    for module in model.modules():
        if isinstance(module, Rotary):
            continue
        for name, part in list(module.items()):
            if type(part) is nn.RoPE and not part.traditional:
                setattr(module, name, Rotary(part, angles))
