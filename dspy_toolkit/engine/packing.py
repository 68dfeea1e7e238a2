"""Rows of different widths in one step, one after the other instead of padded to the widest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np


class Packing:
    """Where the tokens of each row are in a line of all of them.

    Only for what they see of their own row they are put apart, padded to the widest.

    Args:
        counts: tokens of each row.

    Attributes:
        rows: which row each token is of, (tokens,).
        ends: place of each row's last token, (rows,).
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts, self._width = np.array(counts), max(counts)
        self._begins = np.cumsum(self._counts) - self._counts
        self._rows = np.repeat(np.arange(len(counts)), counts)
        self._within = np.arange(len(self._rows)) - self._begins[self._rows]
        self._known: dict[int, tuple[mx.array, np.ndarray, mx.array]] = {}
        self.rows = mx.array(self._rows)
        self.ends = mx.array(self._begins + self._counts - 1)

    def positions(self, begins: Sequence[int]) -> np.ndarray:
        """Positions of all tokens, (tokens,), by those of each row's first one."""
        found: np.ndarray = np.repeat(begins, self._counts) + self._within
        return found

    def slices(self) -> list[slice]:
        """Where each row's tokens are in the line."""
        ends = self._begins + self._counts
        return [slice(*pair) for pair in zip(self._begins.tolist(), ends.tolist(), strict=True)]

    def apart(self, line: mx.array) -> mx.array:
        """(1, heads, tokens, size) to (rows, heads, width, size), where padding means nothing."""
        heads = line.shape[1]
        found = line.reshape(-1, line.shape[3])[self._places(heads)[0]]
        return found.reshape(len(self._counts), heads, self._width, -1)

    def together(self, apart: Any, heads: int) -> Any:
        """(rows, shared heads, heads of each * width, size) to (1, shared heads, queries, size).

        Queries are a head's tokens in line, head after head.
        """
        _, there, mx_there = self._places(heads)
        flat = apart.reshape(-1, apart.shape[3])
        found = flat[mx_there if isinstance(apart, mx.array) else there]
        return found.reshape(1, apart.shape[1], -1, apart.shape[3])

    def some(self, line: mx.array, shared: int, rows: Sequence[int] | None) -> mx.array:
        """The queries of some rows in that form, of (1, heads, tokens, size)."""
        _, heads, tokens, size = line.shape
        if rows is not None:
            by_head = line.reshape(shared, heads // shared, tokens, size)
            line = by_head[:, :, mx.array(self._of(rows))]
        return line.reshape(1, shared, -1, size)

    def spread(self, some: Any, rows: Sequence[int], fill: float) -> Any:
        """That form for all rows, of some of them, with `fill` for the others."""
        tokens = self._of(rows)
        _, shared, queries, size = some.shape
        heads = queries // len(tokens)
        library: Any = mx if isinstance(some, mx.array) else np
        whole = library.full((shared, heads, len(self._rows), size), fill, dtype=library.float32)
        whole[:, :, library.array(tokens)] = some.reshape(shared, heads, len(tokens), size)
        return whole.reshape(1, shared, -1, size)

    def _of(self, rows: Sequence[int]) -> np.ndarray:
        return np.flatnonzero(np.isin(self._rows, rows))

    def _places(self, heads: int) -> tuple[mx.array, np.ndarray, mx.array]:
        """Where in the line each of the tokens apart is, and the other way, head by head."""
        if heads not in self._known:
            tokens, each = len(self._rows), np.arange(heads)
            padded = np.minimum(np.arange(self._width), self._counts[:, None] - 1)
            padded += self._begins[:, None]
            line = each[:, None] * tokens + padded[:, None]
            apart = (self._rows * heads + each[:, None]) * self._width + self._within
            self._known[heads] = mx.array(line.ravel()), apart.ravel(), mx.array(apart.ravel())
        return self._known[heads]
