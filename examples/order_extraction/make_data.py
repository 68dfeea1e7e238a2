"""Write the order emails from the wording files beside this script.

    python make_data.py [--out FOLDER]

The same seed and wording give the same bytes. Half of the emails ask for express delivery; the
total is the sum of the goods' prices.
"""

from __future__ import annotations

import argparse
import json
import random
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COUNTS = {"train": 80, "validation": 80, "test": 240}
SEED = 37
MONEY = ("${:,.2f}", "{:,.2f} dollars", "USD {:,.2f}")
WORDS = "one two three four five six seven eight nine ten eleven twelve".split()


@dataclass(frozen=True)
class Item:
    name: str
    plural: str
    price: float
    quantity: int


def shuffled_forever(items: list[Any], rng: random.Random) -> Iterator[Any]:
    """Every item once in random order, then again: none is much more frequent than another."""
    while True:
        yield from rng.sample(items, len(items))


def in_words(item: Item) -> str:
    return f"{WORDS[item.quantity - 1]} {item.name if item.quantity == 1 else item.plural}"


def in_digits(item: Item) -> str:
    return f"{item.quantity} {item.name if item.quantity == 1 else item.plural}"


def times(item: Item) -> str:
    return f"{item.quantity} x {item.name}"


STYLES: tuple[Callable[[Item], str], ...] = (in_words, in_digits, times)


def join(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def draw_items(bank: dict[str, Iterator[Any]], count: int, rng: random.Random) -> list[Item]:
    drawn: dict[str, Item] = {}
    while len(drawn) < count:
        name, plural, price = next(bank["products"])
        drawn.setdefault(name, Item(name, plural, price, rng.randint(1, len(WORDS))))
    return list(drawn.values())


def write_email(
    bank: dict[str, Iterator[Any]],
    slots: dict[str, str],
    named: bool,
    express: bool,
    rng: random.Random,
) -> str:
    """Two to four sentences, the order first, and the writer's name below if it is not in them."""
    rest = [next(bank["total"])]
    # Who does not mention delivery does not ask for express.
    if express or rng.random() < 0.6:
        rest.append(next(bank["express" if express else "standard"]))
    if rng.random() < 0.5:
        rest.append(next(bank["aside"]))
    rng.shuffle(rest)
    sentences = [next(bank["named" if named else "unnamed"]), *rest]
    closing = [] if named else [next(bank["signed"])]
    return " ".join(sentence.format(**slots) for sentence in (*sentences, *closing))


def make_split(wording: dict[str, Any], count: int, rng: random.Random) -> list[dict[str, Any]]:
    bank = {name: shuffled_forever(items, rng) for name, items in wording.items()}
    rows = []
    for number in range(count):
        named, express = number % 2 == 0, number % 4 < 2
        items = draw_items(bank, 1 + number % 3, rng)
        total = round(sum(item.price * item.quantity for item in items), 2)
        customer = next(bank["customers"])
        money, style = rng.choice(MONEY), rng.choice(STYLES)
        slots = {
            "customer": customer,
            "items": join([style(item) for item in items]),
            "total": money.format(total),
            "other": next(bank["others"]),
            "price": money.format(rng.randint(20, 400)),
        }
        rows.append(
            {
                "email": write_email(bank, slots, named, express, rng),
                "customer": customer,
                "goods": [{"name": item.name, "quantity": item.quantity} for item in items],
                "total": total,
                "express": express,
            }
        )
    rng.shuffle(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "data")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        wording = tomllib.loads((HERE / "wording" / f"{split}.toml").read_text("utf-8"))
        rows = make_split(wording, count, random.Random(f"{SEED} {split}"))
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{split}.jsonl").write_bytes(lines.encode())
        print(f"{split}: {len(rows)} emails")


if __name__ == "__main__":
    main()
