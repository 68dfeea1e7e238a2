"""Which episodes are trained on at each step of the curriculum."""

from __future__ import annotations

from random import Random

import episodes
import extract
from episodes import FORMS, Piece, Room
from orders import Orders

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
LEVEL_BATCHES = 600
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
    "orders": (640, 900),
}
# Shares of whole prompts, once every level is done, and how often they are classification. Half and
# half, sorting fell behind while spans were long learnt.
CLASSES = {"full": 9, "clauses": 2, "twins": 1, "mood": 1, "mood_named": 1, "made_up": 3}
REST = {"extract": 3, "spans": 3, "verdicts": 5, "either": 4, "orders": 2.5}
SORTED = 0.7
# Forms of which some rows fill the whole context, how many, and how long those are.
LONG_FORMS = ("full", "made_up", *REST)
LONG_SHARE = 0.15
LONG = (1100, 1900)
# How many facts stand in a context of yes or no; the first are the easy ones.
COUNTS = ((1, 1), (1, 1), (1, 2), (2, 2), (2, 5))


def choose(batch: int, rng: Random) -> str:
    """The form of a batch: mostly that of its level, else an earlier one."""
    level = batch // LEVEL_BATCHES
    if level >= len(ORDER):
        shares = CLASSES if rng.random() < SORTED else REST
        return rng.choices(list(shares), list(shares.values()))[0]
    if level == 0 or rng.random() < NOW:
        return ORDER[level]
    return ORDER[rng.randrange(max(0, level - BACK), level)]


def length(form: str, rng: Random) -> int:
    if form in LONG_FORMS and rng.random() < LONG_SHARE:
        return rng.randint(*LONG)
    return rng.choice(LENGTHS[form])


def draw(form: str, rng: Random, room: Room) -> list[Piece]:
    """One episode of a form, with as many demonstrations as the row has room for."""
    if form == "extract":
        return extract.episode(rng, extract.Extraction(rng), room, MANY)
    if form == "orders":
        return extract.episode(rng, Orders(rng), room, MANY)
    partial, reasons = rng.random() < 0.3, rng.random() < 0.5
    yes_no = {"spans": False, "verdicts": True, "either": None}
    if form in yes_no:
        count = rng.choice(COUNTS) if form == "verdicts" else COUNTS[-1]
        alike, bound = rng.random() < 0.3, rng.choice(("", extract.BOUND))
        questions = extract.Questions(
            rng, yes_no[form], reasons, count=count, alike=alike, bound=bound
        )
        return extract.episode(rng, questions, room, MANY, partial)
    natural = form in ("clauses", "full") and rng.random() < 0.15
    return episodes.classify(rng, FORMS[form], room, MANY, natural=natural)
