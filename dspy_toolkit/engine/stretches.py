"""Stretches of keys and values that are stored once, and the rows that look back at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx

from dspy_toolkit.engine.prefix_tree import Hold, Part

# Keys and values of one stretch of tokens, a layer each: (1, heads, tokens, width).
Stretch: TypeAlias = list[tuple[mx.array, mx.array]]


class Lent:
    """What a row looks back at of a stored prefix, and what of it is copied into its slot.

    Short stretches are copied: one of its own costs more in every step. Where in a row's slot
    a token lies does not matter to those that come after it.

    Args:
        hold: on the prefix.
        least: tokens of a stretch that is looked back at where it is stored.

    Attributes:
        length: tokens looked back at.
        copied: (stretch, tokens of it) to copy.
    """

    def __init__(self, hold: Hold[Stretch], least: int) -> None:
        self._hold = hold
        self._inside: list[range] = []
        self.copied: list[tuple[Stretch, int]] = []
        place = 0
        for part in hold.parts:
            if part.used < least:
                self._inside.append(range(place, place + part.used))
                self.copied.append((part.payload, part.used))
            place += part.used
        self.length = hold.length - sum(used for _, used in self.copied)

    @property
    def parts(self) -> list[tuple[int, Part[Stretch]]]:
        """The stretches that are looked back at, as they are stored now, by where they begin."""
        parts, place = [], 0
        for part in self._hold.parts:
            if not any(place in copied for copied in self._inside):
                parts.append((place, part))
            place += part.used
        return parts

    def release(self) -> None:
        """Let the prefix go."""
        self._hold.release()


class Borrowed(Lent):
    """The same for a fork of a row, which ends before the row does and lets nothing go."""

    def __init__(self, lent: Lent) -> None:
        self._hold, self._inside, self.length = lent._hold, lent._inside, lent.length
        self.copied = []

    def release(self) -> None:
        """Leave that to the row."""


@dataclass(frozen=True)
class Span:
    """Tokens of a stretch that rows of a step look back at.

    Attributes:
        rows: places of these rows in the step, or None for all of them.
        begin, end: which tokens of the stretch.
        place: position of its first token in what the rows read.
    """

    rows: list[int] | None
    stretch: Stretch
    begin: int
    end: int
    place: int = 0


def spans(lent: Sequence[Lent | None]) -> list[Span]:
    """What rows look back at, each token of each stretch once.

    Rows may use different lengths of a stretch: it is parted where the first of them end.
    """
    users: dict[int, tuple[Stretch, int, list[tuple[int, int]]]] = {}
    for row, mine in enumerate(lent):
        for place, part in () if mine is None else mine.parts:
            users.setdefault(id(part.payload), (part.payload, place, []))[2].append(
                (part.used, row)
            )
    found = []
    for stretch, place, uses in users.values():
        begin = 0
        for end in sorted({used for used, _ in uses}):
            rows = [row for used, row in uses if used >= end]
            every = len(rows) == len(lent)
            found.append(Span(None if every else rows, stretch, begin, end, place))
            begin = end
    return found


def stretch_bytes(stretch: Stretch) -> int:
    """Memory of a stretch."""
    return sum(keys.nbytes + values.nbytes for keys, values in stretch)


def split_stretch(stretch: Stretch, at: int) -> tuple[Stretch, Stretch]:
    """Two stretches with memory of their own: the first `at` tokens, and the rest."""
    first = [(mx.contiguous(k[:, :, :at]), mx.contiguous(v[:, :, :at])) for k, v in stretch]
    rest = [(mx.contiguous(k[:, :, at:]), mx.contiguous(v[:, :, at:])) for k, v in stretch]
    mx.eval(first, rest)
    return first, rest
