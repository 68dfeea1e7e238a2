"""Episodes of reading an order: who sends it, what is ordered, as JSON, its price, the delivery."""

from __future__ import annotations

import json
from functools import cache
from random import Random

import lexicon
from episodes import pseudo_word
from extract import Example
from render import Field, Task

COUNTED = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
           "eleven", "twelve")  # fmt: skip


@cache
def lines(kind: str) -> tuple[str, ...]:
    return lexicon.split_lines(lexicon.read("orders.toml")[kind])


def schema(kind: str, thing: str, count: str, descs: tuple[str, str]) -> str:
    """JSON schema of a list of objects with a name and a count, as DSPy writes it."""
    name, number = ({"description": desc} if desc else {} for desc in descs)
    least = {"minLength": 1}, {"minimum": 1}
    properties = {
        thing: {"type": "string", **name, **least[0], "title": _title(thing)},
        count: {"type": "integer", **number, **least[1], "title": _title(count)},
    }
    entry = {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": [thing, count],
        "title": kind,
    }
    whole = {"type": "array", "$defs": {kind: entry}, "items": {"$ref": f"#/$defs/{kind}"}}
    return json.dumps(whole)


def _title(name: str) -> str:
    return name.replace("_", " ").title()


def full_name(rng: Random) -> str:
    """A first name, and a last name that may be any word."""
    first, style = rng.choice(lexicon.words("names")), rng.random()
    if style < 0.5:
        return f"{first} {pseudo_word(rng).capitalize()}"
    if style < 0.8:
        return f"{first} {rng.choice(lexicon.any_words()).capitalize()}"
    return f"{first} {rng.choice(lexicon.words('places'))}"


def article(rng: Random) -> str:
    thing = rng.choice(lexicon.words("objects"))
    style = rng.random()
    if style < 0.3:
        return thing
    return f"{rng.choice(lines('sorts') if style < 0.7 else lexicon.any_words())} {thing}"


def price(rng: Random) -> tuple[str, str]:
    """An amount as it is written, and as a number."""
    cents = rng.randrange(100, 10 ** rng.randint(3, 5)) if rng.random() < 0.5 else (
        5 * rng.randrange(100, 10 ** rng.randint(3, 4))
    )  # fmt: skip
    amount = f"{cents // 100}.{cents % 100:02}"
    written = rng.choice(("${}", "{} dollars", "USD {}", "$ {}")).replace("{}", amount)
    return written, str(float(amount))


class Orders:
    """An order read into one to four fields, one of which is a list of objects."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        names = {part: rng.choice(lines(part)).split() for part in ("who", "what", "sum", "fast")}
        field = {part: rng.choice(words) for part, words in names.items()}
        self.keys = rng.choice(lines("things")), rng.choice(lines("counts"))
        kind = rng.choice(lines("kinds"))
        told = rng.random() < 0.5
        descs = {part: rng.choice(lines(f"{part}_said")) if told else "" for part in names}
        inner = tuple(rng.choice(lines(f"{part}_said")) for part in ("thing", "count"))
        strict = rng.random() < 0.5
        made = {
            "who": Field(field["who"], desc=_bound(descs["who"], "minimum length: 1", strict)),
            "what": Field(
                field["what"],
                kind=f"list[{kind}]",
                desc=_bound(descs["what"], "minimum length: 1", strict),
                schema=schema(kind, *self.keys, inner if told else ("", "")),
            ),
            "sum": Field(
                field["sum"],
                kind="float",
                desc=_bound(descs["sum"], "greater than or equal to: 0", strict),
            ),
            "fast": Field(field["fast"], kind="bool", desc=descs["fast"]),
        }
        self.parts = rng.choices(PARTS, (8, 1, 1, 2, 1))[0]
        source = rng.choice(lines("sources"))
        outs = ", ".join(f"`{made[part].name}`" for part in self.parts)
        text = rng.choice(lines("instructions")).replace("{in}", source).replace("{outs}", outs)
        about = rng.choice(lines("source_said")) if told else ""
        self.task = Task((Field(source, desc=about),), tuple(made[p] for p in self.parts), text)

    def draw(self) -> Example:
        rng = self.rng
        goods = [(article(rng), rng.randint(1, 12)) for _ in range(rng.choice((1, 2, 2, 3)))]
        listed = _listed([_counted(thing, count, rng) for thing, count in goods])
        who, fast = full_name(rng), rng.random() < 0.5
        written, number = price(rng)
        said = {"{who}": who, "{goods}": listed, "{sum}": written}
        opening, closing = rng.choice((("", lines("closings")), (lines("named"), "")))
        parts = [rng.choice(lines("costs"))]
        parts.append(rng.choice(lines("express" if fast else "normal")))
        if rng.random() < 0.35:
            aside = rng.choice(lines("asides"))
            parts.append(aside.replace("{other}", full_name(rng)).replace("{cost}", price(rng)[0]))
        rng.shuffle(parts)
        first = rng.choice(opening or lines("plain"))
        text = " ".join([first, *parts, *([rng.choice(closing)] if closing else [])])
        for slot, value in said.items():
            text = text.replace(slot, value)
        text = lexicon.tidy(lexicon.expand(text, rng))
        thing, count = self.keys
        values = {
            "who": who,
            "what": json.dumps([{thing: name, count: number} for name, number in goods]),
            "sum": number,
            "fast": str(fast),
        }
        return (text[0].upper() + text[1:],), tuple(values[part] for part in self.parts)


PARTS = (
    ("who", "what", "sum", "fast"),
    ("what",),
    ("who", "what"),
    ("what", "sum", "fast", "who"),
    ("who", "sum", "fast"),
)


def _bound(desc: str, limit: str, strict: bool) -> str:
    """A description with a constraint on a line of its own, as DSPy writes them."""
    return f"{desc}\nConstraints: {limit}" if strict and desc else desc


def _counted(thing: str, count: int, rng: Random) -> str:
    style = rng.random()
    if style < 0.3:
        return f"{count} x {thing}"
    many = thing if count == 1 else _plural(thing)
    return f"{COUNTED[count - 1] if style < 0.65 else count} {many}"


def _plural(thing: str) -> str:
    return thing + ("es" if thing.endswith(("s", "x", "ch", "sh")) else "s")


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
