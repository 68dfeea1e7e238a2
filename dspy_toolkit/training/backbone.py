"""Inside an mlx-lm model: its hidden states, and which tokens see which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from dspy_toolkit.errors import EngineError

_TOLERANCE = {mx.float32: 1e-3}
_TOLERANCE_OF_HALVES = 3e-2


class UnsuitableModel(EngineError):
    """A model's architecture does not allow what a recipe asks for."""


class OwnMask:
    """Stands in for a layer's cache and lays a mask of ours over its attention.

    mlx-lm's models ask the cache for the mask and pass keys and values through it; this one
    keeps nothing.

    Args:
        documents: (rows, length) integers; a token sees only those with its own number.
        causal: whether a token sees only itself and those before it.
    """

    offset = 0

    def __init__(self, documents: mx.array, causal: bool = True) -> None:
        self._documents = documents
        self.causal = causal

    def make_mask(
        self, length: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """(rows, 1, length, length) bool, true where a query sees a key."""
        seen = self._documents[:, None, :, None] == self._documents[:, None, None, :]
        place = mx.arange(length)
        if self.causal:
            seen = seen & (place[:, None] >= place)
        if window_size is not None:
            seen = seen & (mx.abs(place[:, None] - place) < window_size)
        return seen

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Nothing came before."""
        return keys, values


def hidden_states(
    model: Any, tokens: mx.array, documents: mx.array | None = None, causal: bool = True
) -> mx.array:
    """States after the last norm.

    Args:
        model: mlx-lm's module, with the stack of blocks as `model.model`.
        tokens: (rows, length) int32.
        documents: (rows, length) integers, see `OwnMask`; None is plain causal attention.
        causal: false lets a token see all of its document.

    Returns:
        (rows, length, width).
    """
    masks = None if documents is None else [OwnMask(documents, causal)] * len(model.layers)
    states: mx.array = model.model(tokens, masks)
    return states


def project(model: Any, hidden: mx.array) -> mx.array:
    """Logits (..., vocabulary) of hidden states (..., width)."""
    head = getattr(model, "lm_head", None) or model.model.embed_tokens.as_linear
    logits: mx.array = head(hidden)
    return logits


@dataclass(frozen=True)
class Abilities:
    """What `hidden_states` and `project` can do with a model, found by trying.

    Attributes:
        splits: whether projecting the hidden states gives the model's own logits.
        masks: whether a mask of documents holds.
    """

    splits: bool
    masks: bool


def abilities(model: Any, vocabulary: int) -> Abilities:
    """Try a model out on a few tokens; it is left as it was."""
    tokens = (mx.arange(12) * 7919 % vocabulary)[None]
    was_training = model.training
    model.eval()
    try:
        logits = model(tokens)
        splits = holds(lambda: close(project(model, hidden_states(model, tokens)), logits))
        masks = splits and holds(lambda: _isolates(model, tokens))
    finally:
        model.train(was_training)
    return Abilities(splits, masks)


def _isolates(model: Any, tokens: mx.array) -> bool:
    both = hidden_states(model, tokens, mx.array([[1] * 5 + [2] * 7]))
    return close(both[:, 5:], hidden_states(model, tokens[:, 5:])) and close(
        both[:, :5], hidden_states(model, tokens[:, :5])
    )


def holds(check: Callable[[], bool]) -> bool:
    """Whether a model can do what a check tries with it."""
    # Whatever a foreign architecture raises when it is built otherwise means the same: it cannot.
    try:
        return check()
    except (AttributeError, TypeError, ValueError, IndexError, KeyError, RuntimeError):
        return False


def close(left: mx.array, right: mx.array) -> bool:
    """Whether two arrays are the same but for what their type rounds away."""
    tolerance = _TOLERANCE.get(right.dtype, _TOLERANCE_OF_HALVES)
    allowed = tolerance * (1 + mx.abs(right).max())
    return bool((mx.abs(left - right).max() <= allowed).item())
