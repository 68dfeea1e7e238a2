"""Training examples for `dspy-tk train`: the forms of the curriculum, one after the other.

A batch is a function of seed and number, so a run that was stopped goes on with the same ones.
"""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

import mixture
from episodes import Piece
from tokens import PieceEncoder, build


def examples(seed: int, batch: int, count: int) -> list[dict[str, Any]]:
    """The episodes of a batch, of about `count` times 256 tokens, all of one form and length."""
    rng = Random(f"{seed}:{batch}")
    form = mixture.choose(batch, rng)
    length = mixture.length(form, rng)
    rows: list[dict[str, Any]] = []
    while len(rows) < max(1, count * 256 // length):
        rows += row(form, length, rng)
    return rows


def row(form: str, length: int, rng: Random) -> list[dict[str, Any]]:
    """An episode of at most so many tokens; none where the shortest one has more."""
    encode = _encoder()
    used = 0

    def room(pieces: list[Piece]) -> bool:
        nonlocal used
        size = sum(len(encode(piece.text)) for piece in pieces)
        fits = used + size <= length
        used += size * fits
        return fits

    pieces = mixture.draw(form, rng, room)
    if sum(len(encode(piece.text)) for piece in pieces) > length:
        return []
    return [{"pieces": [{"text": piece.text, "weight": piece.weight} for piece in pieces]}]


@cache
def _encoder() -> PieceEncoder:
    return PieceEncoder(build())
