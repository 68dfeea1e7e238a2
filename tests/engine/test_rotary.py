"""Rotary positions are those of MLX, bit for bit."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from dspy_toolkit.engine.rotary import Rotary, share_angles


class Two(nn.Module):  # type: ignore[misc]  # MLX ships no types
    """Layers as a model has them."""

    def __init__(self, *ropes: nn.Module) -> None:
        super().__init__()
        self.first, self.second = (_Attention(rope) for rope in ropes)


class _Attention(nn.Module):  # type: ignore[misc]
    def __init__(self, rope: nn.Module) -> None:
        super().__init__()
        self.rope = rope


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_heads_are_turned_as_mlx_turns_them(rows: int, width: int, base: float) -> None:
    with mx.stream(mx.cpu):
        heads = mx.random.normal((rows, width, 4, 8), key=mx.random.key(1)).transpose(0, 2, 1, 3)
        for offset in (0, 1400, mx.array([7 * row for row in range(rows)])):
            layers = Two(nn.RoPE(8, base=base, scale=0.5), nn.RoPE(8, base=base))
            usual = [each.rope(heads, offset=offset) for each in (layers.first, layers.second)]
            share_angles(layers)
            share_angles(layers)
            given = [each.rope(heads, offset=offset) for each in (layers.first, layers.second)]

            assert np.array_equal(np.array(mx.stack(given)), np.array(mx.stack(usual)))


def test_a_later_step_is_turned_by_its_own_places() -> None:
    with mx.stream(mx.cpu):
        layers = Two(nn.RoPE(8), nn.RoPE(8))
        share_angles(layers)
        heads = mx.ones((2, 1, 1, 8))
        for offset in (mx.array([3, 4]), mx.array([4, 5])):
            given = layers.second.rope(heads, offset=offset)

            assert np.array_equal(np.array(given), np.array(nn.RoPE(8)(heads, offset=offset)))


def test_what_is_no_plain_rotation_stays_as_it_is() -> None:
    pairs, part = nn.RoPE(8, traditional=True), nn.RoPE(4)
    layers = Two(pairs, part)
    share_angles(layers)
    with mx.stream(mx.cpu):
        heads = mx.random.normal((1, 1, 2, 8), key=mx.random.key(2))

        assert layers.first.rope is pairs
        assert isinstance(layers.second.rope, Rotary)
        assert mx.array_equal(layers.second.rope(heads, offset=3), part(heads, offset=3)).item()
