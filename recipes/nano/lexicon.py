"""The words that training text is made of, read from `data/`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

DATA = Path(__file__).parent / "data"
SLOT = re.compile(r"\{([^{}]*)\}")

# Never trained on: kept to see whether matching carries over to words without a learnt topic.
HELD_OUT_TOPICS = ("arts.guitar", "nature.cats", "travel.sea", "society.wedding", "food.fruit")
HELD_OUT_LABELS = ("gryphon", "walrus", "yonder", "quokka", "bobcat", "lemur", "tapir", "mantis")
LINES = ("instructions", "descriptions", "input_descriptions")
BLURRED = 0.35
MAIN = ("payment", "delivery", "account", "fault")


@dataclass(frozen=True)
class Topic:
    """What can be said about one subject: nouns, predicates, verb phrases, whole clauses."""

    name: str
    domain: str
    n: tuple[str, ...]
    p: tuple[str, ...]
    v: tuple[str, ...]
    s: tuple[str, ...]


def split_commas(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def split_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


@cache
def read(name: str) -> dict[str, Any]:
    return tomllib.loads((DATA / name).read_text(encoding="utf-8"))


@cache
def topics() -> dict[str, Topic]:
    found = {}
    groups = {"shop": read("topics_shop.toml"), **read("topics_world.toml")}
    themes = read("themes.toml")
    for domain, members in groups.items():
        for name, entry in members.items():
            full = name if domain == "shop" else f"{domain}.{name}"
            parts = {key: split_commas(entry.get(key, "")) for key in "npvs"}
            parts["s"] += split_lines(themes.get(full, ""))
            found[full] = Topic(name.replace("_", " "), domain, **parts)
    return found


@cache
def moods() -> dict[str, dict[str, tuple[str, ...]]]:
    return {
        pair: {side: split_lines(text) for side, text in sides.items()}
        for pair, sides in read("moods.toml").items()
    }


@cache
def tails() -> dict[str, dict[str, tuple[str, ...]]]:
    """What can end a clause to put it in a mood, for the pairs that have it."""
    return {
        pair: {side: split_lines(text) for side, text in sides.items()}
        for pair, sides in read("tails.toml").items()
    }


@cache
def slots() -> dict[str, tuple[str, ...]]:
    """Entries for the slots of mood phrases."""
    return {name: split_lines(text) for name, text in read("words.toml")["slots"].items()}


@cache
def side_names(pair: str) -> tuple[tuple[str, ...], ...]:
    """Other names for the two sides of a pair, in the order of its sides."""
    text = read("words.toml")["sides"][pair]
    return tuple(tuple(line.split()) for line in split_lines(text))


@cache
def sentences() -> dict[str, tuple[str, ...]]:
    return {key: split_lines(text) for key, text in read("sentences.toml").items()}


@cache
def words(kind: str) -> tuple[str, ...]:
    """Words of one kind in `words.toml`, each once; some kinds are lines."""
    text = read("words.toml")[kind]
    return split_lines(text) if kind in LINES else tuple(dict.fromkeys(text.split()))


@cache
def train_topics() -> tuple[str, ...]:
    return tuple(name for name in topics() if name not in HELD_OUT_TOPICS)


@cache
def any_words() -> tuple[str, ...]:
    """Every plain word of the topics trained on and of common text, but no held-out label."""
    texts = [text for name in train_topics() for text in (*topics()[name].n, *topics()[name].v)]
    found = {w for text in (*texts, *words("common")) for w in text.split() if w.isalpha()}
    return tuple(sorted(found - set(HELD_OUT_LABELS)))


def expand(text: str, rng: Random, slots: dict[str, tuple[str, ...]] | None = None) -> str:
    """Replace each {a|b} by one of its choices and each {slot} by one of its entries."""

    def pick(match: re.Match[str]) -> str:
        chosen = rng.choice(match.group(1).split("|"))
        return rng.choice((slots or {}).get(chosen.rstrip("23"), (chosen,)))

    while "{" in text:
        text = SLOT.sub(pick, text)
    return text


def tidy(text: str) -> str:
    """Single spaces, none before a comma: choices can be empty."""
    return " ".join(text.split()).replace(" ,", ",")


def clause(topic: Topic, rng: Random) -> str:
    if topic.s and rng.random() < min(0.5, 0.02 * len(topic.s)):
        return tidy(expand(rng.choice(topic.s), rng))
    slots = {"n": topic.n, "p": topic.p, "v": topic.v}
    return tidy(expand(rng.choice(sentences()["clause"]), rng, slots))


def mood_phrase(pair: str, side: str, rng: Random) -> str:
    return tidy(expand(rng.choice(moods()[pair][side]), rng, slots()))


def finish(part: str, rng: Random, capital: bool) -> str:
    """A clause as a sentence: a capital and an end mark, most of the time."""
    if capital:
        part = part[0].upper() + part[1:]
    asks = part.lower().startswith(
        (
            "how",
            "when",
            "where",
            "why",
            "can ",
            "could",
            "will ",
            "would",
            "is ",
            "what",
            "do ",
            "who",
        )
    )
    end = "?" if asks and rng.random() < 0.8 else rng.choices(".!", (9, 1))[0]
    return part + end


def blur(text: str, rng: Random) -> str:
    """Lose or swap a few words, so that nothing hangs on one exact wording."""
    kept = []
    for word in text.split():
        chance = rng.random()
        if chance < 0.1:
            continue
        kept.append(rng.choice(words("common")) if chance < 0.15 else word)
    return " ".join(kept) or text


def message(topic: Topic, mood: tuple[str, str] | None, rng: Random, clauses: int = 1) -> str:
    """One to three sentences on a topic, said in a mood where one is given."""
    parts = [clause(topic, rng) for _ in range(clauses)]
    if mood:
        pair, side = mood
        said = mood_phrase(pair, side, rng)
        if pair in tails() and rng.random() < 0.3:
            parts[-1] += " " + tidy(expand(rng.choice(tails()[pair][side]), rng))
        elif rng.random() < 0.4:
            joint = rng.choice([", ", " and ", " - ", ", so ", " because ", ", "])
            said_first = rng.random() < 0.4
            both = (said, parts[0]) if said_first else (parts[0], said)
            parts[0] = joint.join(both)
        else:
            parts.insert(rng.choice([0, len(parts), len(parts)]), said)
        if rng.random() < 0.2:
            parts.append(mood_phrase(pair, side, rng))
    if rng.random() < 0.2:
        parts.insert(0, expand(rng.choice(sentences()["opening"]), rng))
    if rng.random() < 0.15:
        parts.append(expand(rng.choice(sentences()["closing"]), rng))
    capital = rng.random() < 0.85
    if rng.random() < BLURRED:
        parts = [blur(part, rng) for part in parts]
    return " ".join(finish(part, rng, capital) for part in parts)
