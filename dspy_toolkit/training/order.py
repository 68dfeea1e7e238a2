"""The order of the data: a function of seed and position, so that it needs no state."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np


def batch_rows(seed: int, batch: int, size: int, rows: int) -> list[int]:
    """Which rows make a batch.

    Rows are dealt epoch after epoch, each in an order of its own; a batch may end one epoch and
    begin the next, and each epoch deals every row once.

    Args:
        seed: decides the order, together with the epoch.
        batch: number of the batch, from 0.
        size: rows of a batch.
        rows: how many there are, at least 1.

    Returns:
        `size` indices below `rows`.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    places = range(batch * size, (batch + 1) * size)
    return [int(_permutation(seed, place // rows, rows)[place % rows]) for place in places]


def generator(*keys: int) -> np.random.Generator:
    """A random generator that is a function of some whole numbers, in their order."""
    return np.random.Generator(np.random.Philox(key=_hash(*keys) >> 128))


def mlx_seed(seed: int, step: int) -> int:
    """The seed of MLX's generator in a step (dropout and the like)."""
    return _hash(seed, step) >> 192


def _hash(*keys: int) -> int:
    text = ",".join(map(str, keys))
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, rows: int) -> np.ndarray:
    return generator(seed, epoch).permutation(rows)
