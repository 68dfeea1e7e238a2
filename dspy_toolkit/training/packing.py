"""Several examples in a row, so that few places of a batch are padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.training.encode import Encoded

# Rows that are still looked at for a place; more of them pack tighter and take longer.
_OPEN_ROWS = 64


class TooLong(InvalidInput):
    """An example does not fit a row."""


@dataclass(frozen=True, slots=True)
class Row:
    """Examples that lie one after the other in one row.

    Attributes:
        tokens: (length,) int32.
        goals: (length,) float32, how much it counts that the token is predicted from those before
            it. The first token of an example never counts.
        documents: (length,) int32, 1 for the first example's tokens, 2 for the second's.
        places: where each example was read.
    """

    tokens: np.ndarray
    goals: np.ndarray
    documents: np.ndarray
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """Examples that fit a row, and how many were cut or left out for it."""

    examples: list[Encoded]
    truncated: int
    skipped: int


def fit(examples: Iterable[Encoded], length: int, too_long: str) -> Fitted:
    """Deal with examples that are longer than a row.

    Args:
        length: tokens of a row.
        too_long: "refuse", "truncate" (the end is cut off) or "skip". An example whose answer
            would be cut off whole is skipped.

    Raises:
        TooLong: "refuse", and one is.
    """
    kept: list[Encoded] = []
    truncated = skipped = 0
    for example in examples:
        if len(example.tokens) > length and too_long == "refuse":
            raise TooLong(
                f"{example.place}: has {len(example.tokens)} tokens, a row holds {length}; raise "
                'sequence_length in [data], or set too_long to "truncate" or "skip"'
            )
        whole = len(example.tokens) <= length
        if not whole and (too_long == "skip" or not example.weights[1:length].any()):
            skipped += 1
            continue
        truncated += not whole
        kept.append(Encoded(example.tokens[:length], example.weights[:length], example.place))
    return Fitted(kept, truncated, skipped)


def pack(examples: Sequence[Encoded], length: int) -> list[Row]:
    """Lay examples into rows, each into the fullest open row that has room for it.

    Args:
        examples: each at most `length` tokens long; their order decides the rows.
        length: tokens of a row.
    """
    rows: list[list[Encoded]] = []
    room: list[int] = []
    first_open = 0
    for example in examples:
        need = len(example.tokens)
        fitting = [i for i in range(first_open, len(rows)) if room[i] >= need]
        if fitting:
            best = min(fitting, key=lambda i: room[i])
        else:
            best = len(rows)
            rows.append([])
            room.append(length)
            first_open = max(first_open, len(rows) - _OPEN_ROWS)
        rows[best].append(example)
        room[best] -= need
    return [_row(row) for row in rows]


def one_each(examples: Iterable[Encoded]) -> list[Row]:
    """A row for each example."""
    return [_row([example]) for example in examples]


def _row(examples: Sequence[Encoded]) -> Row:
    documents = [np.full(len(each.tokens), i, np.int32) for i, each in enumerate(examples, 1)]
    return Row(
        tokens=np.concatenate([each.tokens for each in examples]),
        goals=np.concatenate(list(_goals(examples))),
        documents=np.concatenate(documents),
        places=tuple(each.place for each in examples),
    )


def _goals(examples: Sequence[Encoded]) -> Iterator[np.ndarray]:
    for example in examples:
        goals = example.weights.copy()
        goals[0] = 0.0
        yield goals
