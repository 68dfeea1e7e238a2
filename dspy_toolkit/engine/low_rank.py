"""Matrices kept as the product of two thin ones, inside a model of any architecture mlx-lm knows.

`config.json` names them under `low_rank`: the rank by module path. mlx-lm itself does not load
such a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

KEY = "low_rank"


class LowRankLinear(nn.Module):  # type: ignore[misc]  # MLX ships no complete types
    """A linear layer whose matrix is `up @ down`.

    Args:
        inputs, outputs: sizes of the layer.
        rank: of the product.
        bias: whether something is added.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.down = mx.zeros((rank, inputs))
        self.up = mx.zeros((outputs, rank))
        if bias:
            self.bias = mx.zeros((outputs,))

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = (x @ self.down.T) @ self.up.T
        return y + self.bias if "bias" in self else y


class LowRankEmbedding(nn.Module):  # type: ignore[misc]
    """An embedding whose table is `up @ down`, also where it serves as the output layer."""

    def __init__(self, rows: int, width: int, rank: int) -> None:
        super().__init__()
        self.up = mx.zeros((rows, rank))
        self.down = mx.zeros((rank, width))

    def __call__(self, tokens: mx.array) -> mx.array:
        embedded: mx.array = self.up[tokens] @ self.down
        return embedded

    def as_linear(self, x: mx.array) -> mx.array:
        logits: mx.array = (x @ self.down.T) @ self.up.T
        return logits


def with_low_rank(model: Any, ranks: Mapping[str, int]) -> Any:
    """Replace modules of a model by empty low-rank ones, in place."""
    leaves = dict(tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module))
    fresh = []
    for path, rank in ranks.items():
        module = leaves[path]
        rows, columns = module.weight.shape
        thin = (
            LowRankEmbedding(rows, columns, rank)
            if isinstance(module, nn.Embedding)
            else LowRankLinear(columns, rows, rank, "bias" in module)
        )
        fresh.append((path, thin))
    model.update_modules(tree_unflatten(fresh))
    return model


def model_classes(config: dict[str, Any]) -> tuple[Any, Any]:
    """mlx-lm's classes for a configuration, the model with its low-rank modules in place."""
    from mlx_lm.utils import _get_classes

    kind, arguments = _get_classes(config)
    ranks = config.get(KEY)
    if not ranks:
        return kind, arguments
    return (lambda given: with_low_rank(kind(given), ranks)), arguments
