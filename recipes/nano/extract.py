"""Episodes of taking spans out of a text and of answering questions about a short context."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Protocol

import lexicon
import render
from episodes import LAST, MARKED_TURNS, MARKER_WEIGHT, Piece, Room
from render import Field, Task

# Never trained on: kept to see whether copying and answering carry over to other sentences.
HELD_OUT_DOMAINS = ("travel", "school")
ORDERS = ("name", "place", "object", "number")
UNITS = ("days", "weeks", "months", "years", "hours")
GUESTS = ("people", "guests", "children", "members", "adults")
BOUND = "\nConstraints: minimum length: 1"
Example = tuple[tuple[str, ...], tuple[str, ...]]
Drawn = tuple[dict[str, str], dict[str, str]]


@cache
def data() -> dict:
    return lexicon.read("facts.toml")


def draw_span(kind: str, rng: Random) -> str:
    if kind == "number":
        return str(rng.randrange(10, 10 ** rng.randint(2, 5)))
    if kind == "money":
        return f"{rng.randint(2, 300)} dollars"
    if kind in ("span", "count"):
        return f"{rng.randint(2, 60)} {rng.choice(UNITS if kind == 'span' else GUESTS)}"
    if kind in ("name", "place", "object"):
        return rng.choice(lexicon.words(f"{kind}s"))
    return rng.choice(lexicon.split_lines(data()["slots"][kind]))


KINDS = (*ORDERS, "money", "span", "count", *("job", "day", "color", "food", "permit", "desk"),
         "proof", "event", "time", "subject")  # fmt: skip


def draw_values(rng: Random) -> dict[str, str]:
    return {kind: draw_span(kind, rng) for kind in KINDS}


def of_domains(table: str, domains: tuple[str, ...]) -> list[dict[str, str]]:
    """Facts or sentences of some domains, or of all that are trained on."""
    return [
        entry
        for entry in data()[table]
        if (entry["domain"] in domains if domains else entry["domain"] not in HELD_OUT_DOMAINS)
    ]


def _fill(text: str, values: dict[str, str], rng: Random) -> str:
    for kind, value in values.items():
        text = text.replace("{" + kind + "}", value)
    return lexicon.tidy(lexicon.expand(text, rng))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


class Extraction:
    """One to three parts of a sentence, each its own output field."""

    def __init__(self, rng: Random, domains: tuple[str, ...] = ()) -> None:
        self.rng = rng
        sentences = of_domains("sentence", domains)
        domain = rng.choice(sorted({entry["domain"] for entry in sentences}))
        self.sentences = [entry["text"] for entry in sentences if entry["domain"] == domain]
        parts = [kind for kind in data()["fields"] if "{" + kind + "}" in self.sentences[0]]
        self.parts = rng.sample(parts, rng.choices((1, 2, 3), (5, 3, 1))[0])
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
        values = draw_values(self.rng)
        text = _fill(self.rng.choice(self.sentences), values, self.rng)
        if self.rng.random() < 0.3:
            topic = lexicon.topics()[self.rng.choice(lexicon.train_topics())]
            text += " " + lexicon.message(topic, None, self.rng)
        if self.rng.random() < 0.8:
            text = _capital(text)
        return (text,), tuple(values[part] for part in self.parts)


class Questions:
    """Two to five facts and a question about one: words of it, or whether something is so.

    Args:
        yes_no: which of the two; None lets each question be either.
        reasons: whether the fact is repeated before the answer.
        domains: where the facts come from; those trained on if empty.
        count: least and most facts of a context.
        alike: whether all facts say the same of different things, so that a value of one is a
            wrong answer about another.
        bound: what is added to the description of an answer, where it has one.
    """

    def __init__(
        self,
        rng: Random,
        yes_no: bool | None,
        reasons: bool,
        domains: tuple[str, ...] = (),
        count: tuple[int, int] = (2, 5),
        alike: bool = False,
        bound: str = "",
    ) -> None:
        self.rng, self.yes_no, self.count = rng, yes_no, count
        self.facts = of_domains("fact", domains)
        if alike:
            self.facts = [rng.choice(self.facts)]
        elif rng.random() < 0.4:
            domain = rng.choice(self.facts)["domain"]
            self.facts = [fact for fact in self.facts if fact["domain"] == domain]
        self.one_key = not alike and rng.random() < 0.4
        self.truths = ("True", "False") if yes_no and rng.random() < 0.4 else ("yes", "no")
        verdict = rng.choice(("answer", "verdict", "result")) if yes_no else "answer"
        told = rng.random() < 0.3
        final = Field(
            verdict,
            kind="bool" if self.truths[0] == "True" else "str",
            desc=rng.choice(lexicon.split_lines(data()["instructions"]["answer_descriptions"]))
            + bound
            if told and not yes_no
            else "",
        )
        about = rng.choice(lexicon.split_lines(data()["instructions"]["context_descriptions"]))
        outs = (Field("reasoning"), final) if reasons else (final,)
        line = rng.choice(lexicon.split_lines(data()["instructions"]["answer"]))
        line = line.replace("{outs}", ", ".join(f"`{field.name}`" for field in outs))
        context = Field("context", desc=about if told else "")
        self.task = Task((context, Field("question")), outs, line)

    def _drawn(self) -> list[Drawn]:
        """Facts with their values; no two say the same about the same."""
        rng = self.rng
        drawn: list[Drawn] = []
        said: set[tuple[str, str]] = set()
        shared = draw_values(rng)
        for _ in range(rng.randint(*self.count)):
            fact, values = rng.choice(self.facts), draw_values(rng)
            if self.one_key:
                values |= {fact["key"]: shared[fact["key"]]}
            about = (values[fact["key"]], fact["part"])
            if about not in said:
                said.add(about)
                drawn.append((fact, values))
        return drawn

    def draw(self) -> Example:
        rng, drawn = self.rng, self._drawn()
        lines = [_capital(_fill(fact["text"], values, rng)) + "." for fact, values in drawn]
        chosen = rng.randrange(len(drawn))
        (fact, values), reason = drawn[chosen], lines[chosen]
        span = values[fact["part"]]
        if rng.random() < 0.4 if self.yes_no is None else self.yes_no:
            asked = span if rng.random() < 0.5 else self._other(fact["part"], span, drawn)
            question = _fill(fact["check"], {**values, fact["part"]: asked}, rng)
            result = self.truths[asked != span]
        else:
            question, result = _fill(fact["asks"], values, rng), span
        if rng.random() < 0.15:
            topic = lexicon.topics()[rng.choice(lexicon.train_topics())]
            beside = _capital(lexicon.clause(topic, rng)) + "."
            lines.insert(rng.randint(0, len(lines)), beside)
        reasons = (reason,) if len(self.task.outputs) == 2 else ()
        return (" ".join(lines), _capital(question) + "?"), (*reasons, result)

    def _other(self, part: str, span: str, drawn: list[Drawn]) -> str:
        """A wrong value; where it can, one that the context says of something else."""
        said = [values[fact["part"]] for fact, values in drawn if fact["part"] == part]
        said = [value for value in said if value != span]
        if said and self.rng.random() < 0.6:
            return self.rng.choice(said)
        while (other := draw_span(part, self.rng)) == span:
            pass
        return other


class Source(Protocol):
    """What an episode is about: its task, and examples of it."""

    task: Task

    def draw(self) -> Example: ...


def episode(
    rng: Random, source: Source, room: Room, demos: int, partial: bool = False
) -> list[Piece]:
    """As `episodes.classify`: demonstrations as far as there is room, and a last question.

    `partial` leaves the reasoning out of the demonstrations, as DSPy does with labelled examples.
    """
    task = source.task
    partial = partial and task.outputs[0].name == "reasoning"
    pieces = [Piece(text) for text in render.system(task)]
    room(pieces)
    last = _turn(rng, task, *source.draw(), True)
    room(last)
    for _ in range(demos):
        turn = _turn(rng, task, *source.draw(), False, partial)
        if not room(turn):
            break
        pieces += turn
    return pieces + last


def _turn(
    rng: Random,
    task: Task,
    inputs: tuple[str, ...],
    values: tuple[str, ...],
    request: bool,
    partial: bool = False,
) -> list[Piece]:
    marker_weight = MARKER_WEIGHT if request or rng.random() < MARKED_TURNS else 0.0
    values = (render.MISSING, *values[1:]) if partial else values
    pieces = [Piece(text) for text in render.question(task, inputs, request, partial)]
    field = -1
    for text, is_value in render.answer(task, values):
        field += is_value
        if not is_value:
            pieces.append(Piece(text, marker_weight))
        elif text == render.MISSING:
            pieces.append(Piece(text))
        else:
            pieces.append(Piece(text, LAST if request else 1.0, 2, field))
    return pieces
