"""Which rows go through the model together in one step. Plain Python, no MLX."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a device is good at.

    Attributes:
        reading_rows: most rows that are read together.
        slice_tokens: most tokens of a row that are read in one step.
        beside_tokens: about how many tokens are read in a step in which other rows decode.
        padding_tokens: how many tokens of padding cost less than one more run of the model.
    """

    reading_rows: int
    slice_tokens: int
    beside_tokens: int
    padding_tokens: int


@dataclass(frozen=True)
class Share:
    """How many tokens the row at this place takes in a step."""

    row: int
    tokens: int


Group = list[Share]


def plan(pending: Sequence[int], limits: Limits) -> list[Group]:
    """Split one step into runs of the model.

    Rows that have a token or a few to take go together; beside them at most one group of rows
    with more to read takes a slice of it, so that reading never holds up decoding for long.

    Args:
        pending: tokens each row has still to take, at least one; rows that have waited longest
            to be read come first.
    """
    decoding = _decoding(pending, limits)
    taken = {share.row for share in decoding}
    most = limits.beside_tokens if decoding else sys.maxsize
    others = [row for row in range(len(pending)) if row not in taken]
    reading = _reading(pending, others, limits, most)
    return [group for group in (decoding, reading) if group]


def _decoding(pending: Sequence[int], limits: Limits) -> Group:
    rows = [row for row, count in enumerate(pending) if count == 1]
    total = len(rows)
    if rows:
        more = sorted(
            (row for row, count in enumerate(pending) if count > 1), key=pending.__getitem__
        )
        for row in more:
            total += pending[row]
            padding = (len(rows) + 1) * pending[row] - total
            if pending[row] > limits.slice_tokens or padding > limits.padding_tokens:
                break
            rows.append(row)
    return [Share(row, pending[row]) for row in rows]


def _reading(pending: Sequence[int], rows: Sequence[int], limits: Limits, most: int) -> Group:
    group: Group = []
    total = widest = 0
    for row in rows:
        if len(group) == limits.reading_rows or total >= most:
            break
        tokens = min(pending[row], limits.slice_tokens)
        padded = (len(group) + 1) * max(widest, tokens)
        if group and padded - total - tokens > limits.padding_tokens + (total + tokens) // 4:
            continue
        group.append(Share(row, tokens))
        total, widest = total + tokens, max(widest, tokens)
    return group
