"""Setting single weights to 0, at once or little by little while the model learns."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from dspy_toolkit.compression.activations import input_norms
from dspy_toolkit.compression.layout import block_matrices
from dspy_toolkit.compression.saliency import Scores, wanda

_GROW_UNTIL = 0.7
_EVERY = 5


def smallest_mask(scores: mx.array, share: float, by_row: bool) -> mx.array:
    """Which weights stay when a share of them, the lowest scores, is set to 0.

    Args:
        scores: (rows, columns).
        share: in [0, 1).
        by_row: whether each row loses the same share, as Wanda does, or the matrix as a whole.

    Returns:
        (rows, columns) bool; exactly `ceil(share * count)` of a row, or of all, are false.
    """
    flat = scores if by_row else scores.reshape(1, -1)
    count = math.ceil(share * flat.shape[-1] - 1e-9)
    order = mx.argsort(flat, axis=-1)
    ranks = mx.argsort(order, axis=-1)
    return (ranks >= count).reshape(scores.shape)


def sparse(model: Any, scores: Scores, share: float, by_row: bool) -> None:
    """Set the lowest-scored share of each matrix inside the blocks to 0, in place."""
    weights = dict(tree_flatten(model.parameters()))
    changed = [
        (name, mx.where(smallest_mask(scores[name], share, by_row), weights[name], 0))
        for name in block_matrices(weights)
    ]
    model.update(tree_unflatten(changed))
    mx.eval(model.parameters())


def sparsity(model: Any) -> float:
    """Share of zeros in the matrices inside the blocks."""
    weights = dict(tree_flatten(model.parameters()))
    zeros = total = 0
    for name in block_matrices(weights):
        count: Any = (weights[name] == 0).sum().item()
        zeros += int(count)
        total += weights[name].size
    return zeros / total


def cubic_share(step: int, steps: int, target: float) -> float:
    """Share of zeros at a step: grows fast at first, and is at its target from 70 % of the steps.

    Source:
        Zhu and Gupta, "To prune, or not to prune", arXiv:1710.01878, equation 1.
    """
    done = min(1.0, step / max(1, int(_GROW_UNTIL * steps)))
    return target * (1 - (1 - done) ** 3)


class GradualMask:
    """Called after each update: keeps zeros at 0, and makes more of them as the steps go on.

    A weight that is 0 has the lowest score, so which ones are out can be read from the weights,
    and a resumed training needs nothing else.

    Args:
        model: whose weights are set.
        method: "magnitude", "gradient" or "wanda"; a gradient is worth a magnitude once training
            itself follows it.
        target: share of zeros at the end.
        steps: updates in all.
        windows: calibration text for wanda's input sizes, which are measured once.
    """

    def __init__(
        self, model: Any, method: str, target: float, steps: int, windows: mx.array
    ) -> None:
        self._model = model
        self._target = target
        self._steps = steps
        self._squared = input_norms(model, windows).squared if method == "wanda" else {}
        self._masks: dict[str, mx.array] = {}

    def __call__(self, step: int) -> None:
        """Set weights to 0 after an update."""
        weights = dict(tree_flatten(self._model.parameters()))
        names = list(block_matrices(weights))
        if step % _EVERY == 0 or step == self._steps or not self._masks:
            share = cubic_share(step, self._steps, self._target)
            self._masks = {
                name: smallest_mask(
                    self._score(name, weights[name]), share, by_row=bool(self._squared)
                )
                for name in names
            }
        changed = [(name, mx.where(self._masks[name], weights[name], 0)) for name in names]
        self._model.update(tree_unflatten(changed))
        mx.eval(self._model.parameters())

    def _score(self, name: str, weight: mx.array) -> mx.array:
        mask = self._masks.get(name)
        kept = weight if mask is None else mx.where(mask, weight, 0)
        squared = self._squared.get(name.removesuffix(".weight"))
        return mx.abs(kept) if squared is None else wanda(kept, squared)
