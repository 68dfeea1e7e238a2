"""Attention on a CPU with NumPy's exponential.

MLX's takes 12 ns a number on x86, one at a time, which is four fifths of reading a prompt against
a long prefix; NumPy's takes about one. The scores are evaluated and changed where they lie. The
results agree to rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from dspy_toolkit.engine.slots import LayerSlots

# Below this many scores evaluating them on the way costs more than it saves.
_WORTH_IT = 1 << 18
_NAME = "scaled_dot_product_attention"

Attention = Callable[..., mx.array]


def use_numpy_attention(model: Any) -> None:
    """Have a model attend by `attend` where it runs on shared memory; other callers see no change.

    mlx-lm's models call a function of their module by name; one that does not is left as it is.
    """
    module = sys.modules[type(model).__module__]
    usual: Attention | None = getattr(module, _NAME, None)
    if usual is None or getattr(usual, "is_ours", False):
        return

    def attention(
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        cache: Any,
        scale: float,
        mask: Any,
        **more: Any,
    ) -> mx.array:
        rows, heads, width, _ = queries.shape
        if (
            more.get("sinks") is not None
            or not isinstance(cache, LayerSlots)
            or queries.dtype != mx.float32
            or rows * heads * width * keys.shape[2] < _WORTH_IT
        ):
            return usual(queries, keys, values, cache=cache, scale=scale, mask=mask, **more)
        return attend(queries, keys, values, scale, mask)

    attention.is_ours = True  # type: ignore[attr-defined]
    setattr(module, _NAME, attention)


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | str | None
) -> mx.array:
    """Softmax attention, evaluated on the way.

    Args:
        queries: (rows, heads, width, size), float32.
        keys, values: (rows, shared heads, places, size); heads are a multiple of shared heads.
        scale: of the scores.
        mask: booleans that broadcast to (rows, heads, width, places), False where nothing is to be
            seen; or "causal", the last query seeing all; or None.

    Returns:
        (rows, heads, width, size of values).
    """
    rows, heads, width, size = queries.shape
    shared, places = keys.shape[1], keys.shape[2]
    grouped = (queries * scale).reshape(rows, shared, heads // shared * width, size)
    scores = grouped @ keys.swapaxes(-1, -2)
    scores = scores.reshape(rows, heads, width, places)
    if isinstance(mask, str):
        mask = mx.arange(places)[None] <= mx.arange(places - width, places)[:, None]
    if mask is not None:
        scores = mx.where(mask, scores, mx.finfo(scores.dtype).min)
    mx.eval(scores)
    lying = np.array(scores, copy=False)
    lying -= lying.max(axis=-1, keepdims=True)
    np.exp(lying, out=lying)
    total = mx.array(lying.sum(axis=-1, keepdims=True))
    weights = scores.reshape(rows, shared, heads // shared * width, places)
    return (weights @ values).reshape(rows, heads, width, -1) / total
