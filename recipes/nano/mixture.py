"""Which episodes are trained on at each step of the curriculum."""

from __future__ import annotations

from random import Random

import episodes
import extract
from episodes import FORMS, Piece, Room

# Forms of growing length. Each is mostly trained on for so many steps before the next is added.
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
)
LEVEL_STEPS = 300
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
    "made_up": (256, 384, 512),
    "extract": (176, 256, 384, 640),
    "spans": (192, 256, 384),
    "verdicts": (192, 256, 384),
    "either": (256, 384, 640),
}
# Shares of whole prompts, once every level is done.
WHOLE = {
    "full": 9,
    "clauses": 2,
    "twins": 1,
    "mood": 1,
    "mood_named": 1,
    "made_up": 2,
    "extract": 1.5,
    "spans": 1.5,
    "verdicts": 1.5,
    "either": 1.5,
}


def choose(step: int, rng: Random) -> str:
    """The form of the batch of a step: mostly that of its level, else an earlier one."""
    level = step // LEVEL_STEPS
    if level >= len(ORDER):
        return rng.choices(list(WHOLE), list(WHOLE.values()))[0]
    if level == 0 or rng.random() < NOW:
        return ORDER[level]
    return ORDER[rng.randrange(max(0, level - BACK), level)]


def length(form: str, rng: Random) -> int:
    return rng.choice(LENGTHS[form])


def draw(form: str, rng: Random, room: Room) -> list[Piece]:
    """One episode of a form, with as many demonstrations as the row has room for."""
    if form == "extract":
        return extract.episode(rng, extract.Extraction(rng), room, MANY)
    yes_no = {"spans": False, "verdicts": True, "either": None}
    if form in yes_no:
        questions = extract.Questions(rng, yes_no[form], reasons=rng.random() < 0.5)
        return extract.episode(rng, questions, room, MANY)
    natural = form in ("clauses", "full") and rng.random() < 0.15
    return episodes.classify(rng, FORMS[form], room, MANY, natural=natural)
