"""What rows begin with alike, read once for all of them.

The prompts of a program differ in their last tokens only, and what comes before is most of the
reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from dspy_toolkit.training.backbone import close, hidden_states, holds
from dspy_toolkit.training.packing import Row

_WORTH_TOKENS = 32


class Beginning:
    """A beginning as a model read it.

    Args:
        model: mlx-lm's module, with the stack of blocks as `model.model`.
        tokens: (length,) integers.
    """

    def __init__(self, model: Any, tokens: np.ndarray) -> None:
        self._layers = [_Layer() for _ in model.layers]
        mx.eval(model.model(mx.array(tokens)[None], self._layers))

    def states_after(self, model: Any, tokens: mx.array) -> mx.array:
        """States (rows, length, width) of rows that go on after the beginning."""
        states: mx.array = model.model(tokens, self._layers)
        return states


class _Layer:
    """Stands in for a layer's cache: keeps what it is given first, and lays it before the rest."""

    def __init__(self) -> None:
        self.offset = 0
        self._kept: tuple[mx.array, mx.array] | None = None

    def make_mask(
        self, length: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """(length, offset + length) bool, true where a query sees a key."""
        query = mx.arange(self.offset, self.offset + length)[:, None]
        key = mx.arange(self.offset + length)
        seen = query >= key
        return seen if window_size is None else seen & (query - key < window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """What the queries look at."""
        if self._kept is None:
            self._kept, self.offset = (keys, values), keys.shape[2]
            return keys, values
        return _joined(self._kept[0], keys), _joined(self._kept[1], values)


def _joined(kept: mx.array, fresh: mx.array) -> mx.array:
    every = mx.broadcast_to(kept, (fresh.shape[0], *kept.shape[1:]))
    return mx.concatenate([every, fresh], axis=2)


def split(rows: Sequence[Row]) -> tuple[np.ndarray | None, list[Row]]:
    """What all rows begin with, and the rest of each, in which all goals lie.

    Returns:
        (length,) tokens, or None where too few are the same to be worth it; and the rows without.
    """
    first = rows[0].tokens
    # A goal is predicted from the token before it, which its row keeps.
    length = min(int(np.flatnonzero(row.goals)[0]) - 1 for row in rows)
    for row in rows:
        other = np.flatnonzero(row.tokens[:length] != first[:length])
        length = int(other[0]) if len(other) else length
    if length < _WORTH_TOKENS:
        return None, list(rows)
    return first[:length], [_without(row, length) for row in rows]


def _without(row: Row, length: int) -> Row:
    return Row(row.tokens[length:], row.goals[length:], row.documents[length:], row.places)


def can_begin(model: Any, vocabulary: int) -> bool:
    """Whether a model goes on after a beginning as if it read all at once, found by trying."""
    tokens = np.arange(12) * 7919 % vocabulary

    def same() -> bool:
        whole = hidden_states(model, mx.array(tokens)[None])[:, 5:]
        rest = mx.array(tokens[5:])[None]
        return close(Beginning(model, tokens[:5]).states_after(model, rest), whole)

    return holds(same)
