"""Changes of a text that leave its meaning: typing mistakes, swapped words, other formatting."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

Pieces = list[tuple[str, bool]]
"""A text cut into words and what lies between, each with whether it may be changed."""

_PIECE = re.compile(r"\w+|[^\w]+")
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_SHORTEST_NOISY = 4


def pieces_of(text: str, kept: Sequence[tuple[int, int]]) -> Pieces:
    """Cut a text up. Pieces that touch a kept span, or hold a digit, may not be changed."""
    pieces: Pieces = []
    for match in _PIECE.finditer(text):
        start, end = match.span()
        touched = any(start < last and first < end for first, last in kept)
        pieces.append((match[0], not touched and not re.search(r"\d", match[0])))
    return pieces


def add_character_noise(pieces: Pieces, rng: np.random.Generator, rate: float) -> Pieces:
    """Give a share of the words of four letters and more a typing mistake each."""
    return [
        (_mistyped(piece, rng), free)
        if free and piece.isalpha() and len(piece) >= _SHORTEST_NOISY and rng.random() < rate
        else (piece, free)
        for piece, free in pieces
    ]


def swap_words(pieces: Pieces, rng: np.random.Generator, rate: float) -> Pieces:
    """Let a share of the words trade places with the next one, where only a space is between."""
    changed = list(pieces)
    index = 0
    while index + 2 < len(changed):
        left, between, right = changed[index : index + 3]
        apart = between[0].isspace() and "\n" not in between[0]
        if left[1] and right[1] and apart and left[0].isalpha() and right[0].isalpha():
            if rng.random() < rate:
                changed[index], changed[index + 2] = right, left
                index += 2
        index += 1
    return changed


def reformat(pieces: Pieces, rng: np.random.Generator) -> Pieces:
    """Change letter case, punctuation or spacing throughout, in one way drawn at random."""
    way = _WAYS[int(rng.integers(len(_WAYS)))]
    return [(way(piece) if free else piece, free) for piece, free in pieces]


def _mistyped(word: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(1, len(word) - 1))
    kind = int(rng.integers(4))
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + _neighbour(word[at], rng) + word[at + 1 :]


def _neighbour(letter: str, rng: np.random.Generator) -> str:
    for row in _ROWS:
        at = row.find(letter.lower())
        if at >= 0:
            beside = [row[i] for i in (at - 1, at + 1) if 0 <= i < len(row)]
            return beside[int(rng.integers(len(beside)))]
    return letter


def _without_punctuation(piece: str) -> str:
    return re.sub(r"[,;:!]", "", piece) or " "


def _without_full_stop(piece: str) -> str:
    return re.sub(r"[.!]+(?=\s|$)", "", piece)


def _with_wide_spaces(piece: str) -> str:
    return piece.replace(" ", "  ")


def _with_line_breaks(piece: str) -> str:
    return re.sub(r"(?<=[.!?]) ", "\n", piece)


_WAYS: tuple[Callable[[str], str], ...] = (
    str.lower,
    str.upper,
    _without_punctuation,
    _without_full_stop,
    _with_wide_spaces,
    _with_line_breaks,
)
