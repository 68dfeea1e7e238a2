"""Rows as the arrays of a training step, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import mlx.core as mx
import numpy as np

from dspy_toolkit.training.order import batch_rows
from dspy_toolkit.training.packing import Row

Item = TypeVar("Item")

# Lengths are rounded up, so that few shapes are compiled and products stay aligned.
_LENGTH_UNIT = 32
_GOAL_UNIT = 64


@dataclass(frozen=True, slots=True)
class Batch:
    """Input of a loss.

    Attributes:
        parts: arrays by name, for one thread each; what they mean is between source and loss.
        tokens: how many the model reads, padding left out.
        places: where the examples were read.
    """

    parts: tuple[Mapping[str, mx.array], ...]
    tokens: int
    places: tuple[str, ...]


class Source(Protocol):
    """Training batches by number. The same number always gives the same batch."""

    def batch(self, index: int) -> Batch: ...


class RowSource:
    """Batches of rows in an order that is a function of seed and number.

    Args:
        rows: at least one.
        size: rows of a batch.
        seed: of the order.
        document_mask: whether tokens see those of their own example only.
        workers: parts that a batch is cut into.
    """

    def __init__(
        self, rows: Sequence[Row], size: int, seed: int, document_mask: bool, workers: int = 1
    ) -> None:
        self._rows = rows
        self._size = size
        self._seed = seed
        self._document_mask = document_mask
        self._workers = workers

    def batch(self, index: int) -> Batch:
        chosen = batch_rows(self._seed, index, self._size, len(self._rows))
        rows = [self._rows[i] for i in chosen]
        return rows_batch(rows, self._document_mask, self._workers)


def in_turn(rows: Sequence[Row], size: int, document_mask: bool) -> Iterator[Batch]:
    """Batches that show every row once, in order; the last may be smaller."""
    for start in range(0, len(rows), size):
        yield rows_batch(rows[start : start + size], document_mask)


def rows_batch(rows: Sequence[Row], document_mask: bool, workers: int = 1) -> Batch:
    """A batch of some rows, cut into parts of about as many tokens each."""
    return Batch(
        parts=tuple(
            rows_arrays(part, document_mask)
            for part in shared_out(rows, lambda row: len(row.tokens), workers)
        ),
        tokens=sum(len(row.tokens) for row in rows),
        places=tuple(place for row in rows for place in row.places),
    )


def shared_out(items: Sequence[Item], size: Callable[[Item], int], parts: int) -> list[list[Item]]:
    """Cut items into at most `parts` lists of about the same total size, like sizes together."""
    if parts == 1:
        return [list(items)]
    ordered = sorted(items, key=size)
    share = sum(map(size, ordered)) / parts
    found: list[list[Item]] = [[]]
    total = 0.0
    for item in ordered:
        if found[-1] and len(found) < parts and total + size(item) / 2 > share * len(found):
            found.append([])
        found[-1].append(item)
        total += size(item)
    return found


def rows_arrays(rows: Sequence[Row], document_mask: bool) -> dict[str, mx.array]:
    """Arrays of some rows for `answer_loss`.

    Args:
        rows: at least one.
        document_mask: whether tokens see those of their own example only.

    Returns:
        `tokens` (rows, length) int32; `places` (n,) flat indices of the tokens after which a goal
        is predicted; `targets` (n,); `weights` (n,), 0 for padding; and `documents` (rows,
        length) int32 with a document mask, 0 for padding.
    """
    length = _up(max(len(row.tokens) for row in rows) - 1, _LENGTH_UNIT)
    tokens = np.zeros((len(rows), length + 1), np.int32)
    goals = np.zeros((len(rows), length + 1), np.float32)
    documents = np.zeros((len(rows), length + 1), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row.tokens)] = row.tokens
        goals[i, : len(row.tokens)] = row.goals
        documents[i, : len(row.tokens)] = row.documents
    places = np.flatnonzero(goals[:, 1:])
    padding = _up(len(places), _GOAL_UNIT) - len(places)
    arrays: dict[str, Any] = {
        "tokens": tokens[:, :-1],
        "places": np.pad(places, (0, padding)).astype(np.int32),
        "targets": np.pad(tokens[:, 1:].reshape(-1)[places], (0, padding)),
        "weights": np.pad(goals[:, 1:].reshape(-1)[places], (0, padding)),
    }
    if document_mask:
        arrays["documents"] = documents[:, :-1]
    return {name: mx.array(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _up(count: int, unit: int) -> int:
    return -(-count // unit) * unit
