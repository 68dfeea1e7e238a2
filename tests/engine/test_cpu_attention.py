from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from dspy_toolkit.engine.cpu_attention import attend


@pytest.mark.parametrize("mask", [None, "causal", "bool"])
@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize("width", [1, 7, 80])
def test_it_agrees_with_mlx_to_rounding(
    mask: str | None, heads: int, shared: int, width: int
) -> None:
    rows, places, size = 3, 130, 16
    with mx.stream(mx.cpu):
        draw = iter(mx.random.split(mx.random.key(width), 4))
        queries = 3 * mx.random.normal((rows, heads, width, size), key=next(draw))
        # As the engine has them: slices of something larger.
        keys, values = (
            mx.random.normal((rows, shared, 200, size), key=next(draw))[:, :, :places]
            for _ in range(2)
        )
        seen: mx.array | str | None = mask
        if mask == "bool":
            own = mx.array([40, 0, 50])[:, None, None, None] + mx.arange(width)[None, None, :, None]
            seen = mx.arange(places)[None, None, None] <= own
        usual = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.25, mask=seen)
        ours = attend(queries, keys, values, 0.25, seen)

        assert ours.shape == usual.shape
        assert np.allclose(np.array(ours), np.array(usual), atol=2e-6)
