"""Which episodes are trained on at each level of the curriculum."""

from __future__ import annotations

from random import Random

import episodes
import extract
from episodes import FORMS, Piece, Room

ORDER = (
    "word",
    "words",
    "clause",
    "phrase_named",
    "phrase",
    "mood_named",
    "mood",
    "twins",
    "clauses",
    "full",
)
NOW = 0.7
BACK = 4
MANY = 100
LENGTHS = {
    "word": (96,),
    "words": (160,),
    "clause": (192, 256),
    "phrase_named": (192,),
    "phrase": (192, 256),
    "mood_named": (192, 256),
    "mood": (256, 320),
    "twins": (256, 320),
    "clauses": (256, 384),
    "full": (176, 256, 384, 512, 640, 900),
    "extract": (176, 256, 384),
    "questions": (192, 256, 384),
}


def choose(level: int, rng: Random, spans: float = 0.0) -> str:
    """The form of the next batch: mostly that of the level, else an earlier one.

    `spans` is the share of batches that copy parts of a text or answer questions about it.
    """
    if rng.random() < spans:
        return rng.choice(("extract", "questions"))
    if level == 0 or rng.random() < NOW:
        return ORDER[level]
    return ORDER[rng.randrange(max(0, level - BACK), level)]


def length(form: str, rng: Random) -> int:
    return rng.choice(LENGTHS[form])


def draw(form: str, rng: Random, room: Room) -> list[Piece]:
    """One episode of a form, with as many demonstrations as the row has room for."""
    if form == "extract":
        return extract.episode(rng, extract.Extraction(rng), room, MANY)
    if form == "questions":
        return extract.episode(rng, extract.Questions(rng), room, MANY)
    natural = form in ("clauses", "full") and rng.random() < 0.15
    return episodes.classify(rng, FORMS[form], room, MANY, natural=natural)
