"""What flows into a model's matrices, gathered over calibration text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

_ROWS_AT_ONCE = 4


@dataclass(frozen=True)
class InputNorms:
    """Sizes of inputs by path of the matrix that reads them, one number a channel.

    Attributes:
        squared: mean square.
        absolute: mean absolute value.
        largest: largest absolute value.
    """

    squared: dict[str, mx.array]
    absolute: dict[str, mx.array]
    largest: dict[str, mx.array]


class _Listener(nn.Module):  # type: ignore[misc]  # MLX ships no complete types
    """Stands in for a module and hands its input on to a function."""

    def __init__(self, path: str, module: Any, hear: Callable[[str, mx.array], None]) -> None:
        super().__init__()
        self.module = module
        self._path = path
        self._hear = hear

    def __call__(self, x: mx.array) -> mx.array:
        self._hear(self._path, x.reshape(-1, x.shape[-1]).astype(mx.float32))
        heard: mx.array = self.module(x)
        return heard


@contextmanager
def listening(model: Any, hear: Callable[[str, mx.array], None]) -> Iterator[None]:
    """Hear the input (tokens, channels) of every linear module while the block runs."""
    leaves = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    linear = [(path, module) for path, module in leaves if isinstance(module, nn.Linear)]
    model.update_modules(tree_unflatten([(p, _Listener(p, m, hear)) for p, m in linear]))
    try:
        yield
    finally:
        model.update_modules(tree_unflatten(linear))


def input_norms(model: Any, windows: mx.array) -> InputNorms:
    """Run calibration text through a model and measure the inputs of its matrices.

    Args:
        windows: (windows, length) int32.
    """
    squared: dict[str, mx.array] = {}
    absolute: dict[str, mx.array] = {}
    largest: dict[str, mx.array] = {}
    tokens = windows.size

    def hear(path: str, x: mx.array) -> None:
        size = mx.abs(x)
        squared[path] = squared.get(path, mx.array(0.0)) + (x * x).sum(axis=0) / tokens
        absolute[path] = absolute.get(path, mx.array(0.0)) + size.sum(axis=0) / tokens
        largest[path] = mx.maximum(largest.get(path, mx.array(0.0)), size.max(axis=0))

    with listening(model, hear):
        for start in range(0, windows.shape[0], _ROWS_AT_ONCE):
            mx.eval(model(windows[start : start + _ROWS_AT_ONCE]))
            mx.eval(squared, absolute, largest)
    return InputNorms(squared, absolute, largest)


def input_products(model: Any, windows: mx.array) -> dict[str, mx.array]:
    """Sums of products of inputs, X^T X (channels, channels), by path of the matrix."""
    sums: dict[str, mx.array] = {}

    def hear(path: str, x: mx.array) -> None:
        sums[path] = sums.get(path, mx.array(0.0)) + x.T @ x

    with listening(model, hear):
        for start in range(0, windows.shape[0], _ROWS_AT_ONCE):
            mx.eval(model(windows[start : start + _ROWS_AT_ONCE]))
            mx.eval(sums)
    return sums
