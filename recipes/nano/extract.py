"""Episodes of taking spans out of a text and of answering questions about a short context."""

from __future__ import annotations

from functools import cache
from random import Random

import lexicon
import render
from episodes import LAST, MARKED_TURNS, MARKER_WEIGHT, Piece, Room
from render import Field, Task

SPANS = ("name", "place", "object", "number")
Example = tuple[tuple[str, ...], tuple[str, ...]]


@cache
def data() -> dict:
    return lexicon.read("facts.toml")


def draw_span(kind: str, rng: Random) -> str:
    if kind == "number":
        return str(rng.randrange(10, 10 ** rng.randint(2, 5)))
    return rng.choice(lexicon.words(f"{kind}s"))


def _fill(text: str, values: dict[str, str], rng: Random) -> str:
    for kind, value in values.items():
        text = text.replace("{" + kind + "}", value)
    return lexicon.tidy(lexicon.expand(text, rng))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


class Extraction:
    """One to three parts of a sentence, each its own output field."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.parts = rng.sample(SPANS, rng.choices((1, 2, 3), (5, 3, 1))[0])
        self.sentences = [entry["text"] for entry in data()["sentence"]]
        name = rng.choice(("text", "message", "note", "email", "input", "sentence", "order_text"))
        outs = [rng.choice(data()["fields"][part].split()) for part in self.parts]
        line = rng.choice(lexicon.split_lines(data()["instructions"]["extract"]))
        listed = ", ".join(f"`{out}`" for out in outs)
        for slot, value in (("{in}", name), ("{outs}", listed), ("{out}", outs[0])):
            line = line.replace(slot, value)
        number = rng.choice(("int", "str"))
        fields = [
            Field(out, kind=number if part == "number" else "str")
            for out, part in zip(outs, self.parts, strict=True)
        ]
        self.task = Task((Field(name),), tuple(fields), line)

    def draw(self) -> Example:
        values = {kind: draw_span(kind, self.rng) for kind in SPANS}
        text = _fill(self.rng.choice(self.sentences), values, self.rng)
        if self.rng.random() < 0.3:
            topic = lexicon.topics()[self.rng.choice(lexicon.train_topics())]
            text += " " + lexicon.message(topic, None, self.rng)
        if self.rng.random() < 0.8:
            text = _capital(text)
        return (text,), tuple(values[part] for part in self.parts)


class Questions:
    """Two to four facts and a question about one: a span, or True or False."""

    def __init__(self, rng: Random, yes_no: bool | None = None) -> None:
        self.rng = rng
        self.yes_no = rng.random() < 0.4 if yes_no is None else yes_no
        reasons = rng.random() < 0.5
        verdict = rng.choice(("answer", "verdict", "result"))
        self.truths = rng.choice((("True", "False"), ("yes", "no")))
        kind = "bool" if self.truths[0] == "True" else "str"
        final = Field(verdict, kind=kind) if self.yes_no else Field("answer")
        outs = (Field("reasoning"), final) if reasons else (final,)
        line = rng.choice(lexicon.split_lines(data()["instructions"]["answer"]))
        line = line.replace("{outs}", ", ".join(f"`{field.name}`" for field in outs))
        self.task = Task((Field("context"), Field("question")), outs, line)

    def draw(self) -> Example:
        rng = self.rng
        count = rng.randint(2, 4)
        names = rng.sample(lexicon.words("names"), count)
        facts, chosen = [], rng.randrange(count)
        for name in names:
            fact = rng.choice(data()["fact"])
            values = {kind: draw_span(kind, rng) for kind in SPANS} | {"name": name}
            facts.append((fact, values, _fill(fact["text"], values, rng)))
        fact, values, said = facts[chosen]
        span = values[fact["part"]]
        if self.yes_no:
            other = draw_span(fact["part"], rng) if rng.random() < 0.5 else span
            question = _fill(fact["check"], {**values, fact["part"]: other}, rng)
            result = self.truths[other != span]
        else:
            question, result = _fill(fact["asks"], values, rng), span
        context = " ".join(_capital(text) + "." for _, _, text in facts)
        reasons = (f"{said}.",) if len(self.task.outputs) == 2 else ()
        return (context, _capital(question) + "?"), (*reasons, result)


def episode(rng: Random, source: Extraction | Questions, room: Room, demos: int) -> list[Piece]:
    """As `episodes.classify`: demonstrations as far as there is room, and a last question."""
    task = source.task
    pieces = [Piece(text) for text in render.system(task)]
    room(pieces)
    last = _turn(rng, task, *source.draw(), True)
    room(last)
    for _ in range(demos):
        turn = _turn(rng, task, *source.draw(), False)
        if not room(turn):
            break
        pieces += turn
    return pieces + last


def _turn(
    rng: Random, task: Task, inputs: tuple[str, ...], values: tuple[str, ...], request: bool
) -> list[Piece]:
    marker_weight = MARKER_WEIGHT if request or rng.random() < MARKED_TURNS else 0.0
    pieces = [Piece(text) for text in render.question(task, inputs, request)]
    field = -1
    for text, is_value in render.answer(task, values):
        field += is_value
        if is_value:
            pieces.append(Piece(text, LAST if request else 1.0, 2, field))
        else:
            pieces.append(Piece(text, marker_weight))
    return pieces
