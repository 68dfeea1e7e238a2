"""Write the ticket data from the wording files beside this script.

    python make_data.py [--out FOLDER]

The same seed and wording give the same bytes. Every hand-written ticket is used once, and half of
each team's tickets are urgent, so neither the team nor the place of a phrase tells the urgency.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SPLITS = ("train", "validation", "test")
LEVELS = ("high", "low")
SEED = 11


def lower_first(text: str) -> str:
    return text if text.startswith(("I ", "I'")) else text[0].lower() + text[1:]


def places(ticket: str) -> tuple[str, ...]:
    """Where a phrase of urgency may stand in this ticket."""
    if "{when}" in ticket:
        return ("inline",)
    return (
        ("opening", "before", "between", "after")
        if ". " in ticket
        else (
            "opening",
            "before",
            "after",
        )
    )


def place_phrase(ticket: str, place: str, phrase: str) -> str:
    if place == "inline":
        return ticket.replace("{when}", phrase)
    if place == "opening":
        return f"{phrase} {lower_first(ticket)}"
    if place == "before":
        return f"{phrase} {ticket}"
    if place == "after":
        return f"{ticket} {phrase}"
    first, rest = ticket.split(". ", 1)
    return f"{first}. {phrase} {rest}"


def shuffled_forever(items: list[str], rng: random.Random) -> Iterator[str]:
    """Every item once in random order, then again: no phrase is much more frequent than another."""
    while True:
        yield from rng.sample(items, len(items))


def make_split(wording: dict[str, Any], rng: random.Random) -> list[dict[str, str]]:
    phrases = {
        (level, kind): shuffled_forever(items, rng)
        for level in LEVELS
        for kind, items in wording["urgency"][level].items()
    }
    next_place = {
        (level, ways): itertools.cycle(ways)
        for level in LEVELS
        for ways in {places(t): None for tickets in wording["tickets"].values() for t in tickets}
    }
    rows = []
    for team, tickets in wording["tickets"].items():
        for number, ticket in enumerate(rng.sample(tickets, len(tickets))):
            level = LEVELS[number % 2]
            place = next(next_place[level, places(ticket)])
            kind = place if place in ("inline", "opening") else "sentence"
            text = place_phrase(ticket, place, next(phrases[level, kind]))
            rows.append({"ticket": text, "team": team, "urgency": level})
    rng.shuffle(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "data")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        wording = tomllib.loads((HERE / "wording" / f"{split}.toml").read_text("utf-8"))
        rows = make_split(wording, random.Random(f"{SEED} {split}"))
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{split}.jsonl").write_bytes(lines.encode())
        print(f"{split}: {len(rows)} tickets")


if __name__ == "__main__":
    main()
