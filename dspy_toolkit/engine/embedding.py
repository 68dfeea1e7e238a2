"""A text as a vector: the mean of what a model's last layer makes of its tokens."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np


class NoHiddenStates(ValueError):
    """A model does not show what its last layer makes of tokens; the message says why."""


def mean_hidden(model: Any, tokens: list[int]) -> list[float]:
    """The mean over tokens of a model's last hidden states, of length 1.

    Decoder-only models that were not trained for it make middling embeddings: near texts come
    near, but a model made for retrieval ranks better.

    Args:
        model: mlx-lm's module.
        tokens: at least one.

    Raises:
        NoHiddenStates: the model has no inner model that can be run alone.
    """
    inner = getattr(model, "model", None) or getattr(
        getattr(model, "language_model", None), "model", None
    )
    if inner is None:
        raise NoHiddenStates("its architecture does not show its hidden states")
    hidden = inner(mx.array([tokens]))
    if hidden.ndim != 3 or hidden.shape[1] != len(tokens):
        raise NoHiddenStates("its inner model gives no state for each token")
    mean = np.array(hidden[0].astype(mx.float32).mean(axis=0), dtype=np.float64)
    length = float(np.linalg.norm(mean))
    return [float(value) for value in (mean / length if length else mean)]
