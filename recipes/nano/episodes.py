"""Episodes: a task drawn at random, demonstrations of it, and a last question.

An episode is a function of its seed alone. Which label stands for which topic is drawn anew for
every episode, so that it can only be learnt from the demonstrations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import lexicon
import render
from lexicon import MAIN, Topic
from render import Field, Task

# Fixed markers are learnt at once; most turns do not spend any work on them.
MARKER_WEIGHT, MARKED_TURNS = 0.15, 0.1
FIRST_SEEN = 0.1
LAST = 3.0
VOWELS, CONSONANTS = "aeiou", "bdfgklmnprstvz"


@dataclass(frozen=True)
class Piece:
    """Text, the weight of its tokens in the loss, and how often its label was shown before."""

    text: str
    weight: float = 0.0
    seen: int = -1
    field: int = 0


Room = Callable[[list[Piece]], bool]


@dataclass(frozen=True)
class Form:
    """How an episode is written; the curriculum goes from short forms to whole prompts.

    `orders` weighs the first entries of `ORDERS`, which say what the output fields are.
    `named` is the share with mood labels that say what they mean; `bare` leaves the topic out;
    `made_up` is the share with labels that are no words.
    """

    name: str
    words: tuple[int, int] = (0, 0)
    markers: bool = True
    system: bool = True
    orders: tuple[int, ...] = (1,)
    named: float = 0.4
    bare: bool = False
    kinds: tuple[int, int] = (2, 4)
    pool: tuple[str, ...] = ()
    label_pool: tuple[str, ...] = ()
    pair: str = ""
    made_up: float = 0.14


ORDERS = (
    ("topic",),
    ("mood",),
    ("topic", "mood"),
    ("mood", "topic"),
    ("topic", "topic_again"),
    ("mood", "mood_again"),
)
MOOD_ONLY = (0, 1)
FORMS = {
    "word": Form("word", (1, 1), markers=False, system=False),
    "words": Form("words", (1, 3), system=False),
    "clause": Form("clause", system=False, kinds=(2, 3)),
    "phrase_named": Form("phrase_named", system=False, orders=MOOD_ONLY, named=1.0, bare=True),
    "phrase": Form("phrase", system=False, orders=MOOD_ONLY, named=0.0, bare=True),
    "mood_named": Form("mood_named", system=False, orders=MOOD_ONLY, named=1.0),
    "mood": Form("mood", system=False, orders=MOOD_ONLY, named=0.0),
    "twins": Form("twins", system=False, orders=(0, 0, 1, 1, 3, 3), named=0.2),
    "clauses": Form("clauses", system=False, kinds=(2, 5), orders=(1, 1, 6, 2, 1, 1)),
    "full": Form("full", kinds=(2, 5), orders=(3, 2, 8, 2, 0, 0)),
    "made_up": Form("made_up", kinds=(2, 4), orders=(3, 2, 4, 2, 0, 0), named=0.1, made_up=1.0),
}


def pseudo_word(rng: Random) -> str:
    return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 3)))


def mixed_word(rng: Random) -> str:
    """The beginning of one word and the end of another."""
    first, second = rng.sample(lexicon.any_words(), 2)
    return first[: rng.randint(2, 4)] + second[-rng.randint(2, 5) :]


def draw_labels(
    rng: Random, count: int, made_up: float = 0.14, only: tuple[str, ...] = ()
) -> list[str]:
    if only:
        return rng.sample(only, count)
    if rng.random() < made_up:
        make = rng.choice((pseudo_word, mixed_word))
        return list({make(rng): None for _ in range(40)})[:count]
    style = rng.random()
    if style < 0.52:
        return rng.sample(lexicon.words("labels"), count)
    if style < 0.87:
        chosen = rng.sample(lexicon.any_words(), count)
        return [word.capitalize() for word in chosen] if rng.random() < 0.3 else chosen
    if style < 0.94 or count >= 10:
        return rng.sample("ABCDEFGHIJKLMNOPQRSTUVWXYZ", count)
    return [str(n) for n in rng.sample(range(10), count)]


def draw_topics(rng: Random, count: int, only: tuple[str, ...] = ()) -> list[Topic]:
    """Topics of one episode: often a shop's main themes, often neighbours, sometimes any."""
    known = lexicon.topics()
    if only:
        return [known[name] for name in rng.sample(only, count)]
    names = lexicon.train_topics()
    style = rng.random()
    if style < 0.3:
        pool: list[str] = list(MAIN)
    elif style < 0.4:
        pool = [name for name in names if known[name].domain == "shop"]
    elif style < 0.6:
        domain = known[rng.choice(names)].domain
        pool = [name for name in names if known[name].domain == domain]
    else:
        pool = list(names)
    if len(pool) < count:
        pool = list(names)
    return [known[name] for name in rng.sample(pool, count)]


def bag(topic: Topic, rng: Random, low: int, high: int) -> str:
    words = [w for text in (*topic.n, *topic.v) for w in text.split() if len(w) > 3]
    return " ".join(rng.choice(words) for _ in range(rng.randint(low, high)))


class Source:
    """What one episode classifies: draws an input text and the label of each output field."""

    def __init__(self, rng: Random, form: Form, natural: bool) -> None:
        kinds = rng.randint(*form.kinds)
        self.rng, self.form = rng, form
        self.topics = draw_topics(rng, kinds, form.pool)
        pairs = list(lexicon.moods())
        self.pair = form.pair or rng.choices(pairs, [8, 2, 2, 1, 1, 1])[0]
        sides = list(lexicon.moods()[self.pair])
        self.order = rng.choices(ORDERS[: len(form.orders)], form.orders)[0]
        again = "again" in self.order[-1]
        labels = draw_labels(rng, (kinds + 2) * (1 + again), form.made_up, form.label_pool)
        topic_labels, mood_labels, more = (
            labels[:kinds],
            labels[kinds : kinds + 2],
            labels[kinds + 2 :],
        )
        if natural:
            topic_labels = [topic.name for topic in self.topics]
        self.natural_mood = natural or rng.random() < form.named
        if self.natural_mood:
            mood_labels = rng.choice([sides, sides, *lexicon.side_names(self.pair)])
        self.truth = self.natural_mood and rng.random() < 0.15
        if self.truth:
            mood_labels = ["True", "False"]
        self.labels = {
            "topic": dict(zip(range(kinds), topic_labels, strict=True)),
            "mood": dict(zip(sides, mood_labels, strict=True)),
            "topic_again": dict(zip(range(kinds), more, strict=False)),
            "mood_again": dict(zip(sides, more, strict=False)),
        }
        self.noisy = 0.2 if "mood" not in self.order else 0.0

    def draw(self) -> tuple[str, tuple[str, ...]]:
        rng, form = self.rng, self.form
        which, side = rng.randrange(len(self.topics)), rng.choice(list(self.labels["mood"]))
        topic = self.topics[which]
        if "topic" not in self.order and rng.random() < 0.5:
            topic = lexicon.topics()[rng.choice(lexicon.train_topics())]
        if form.bare:
            count = rng.choice((1, 1, 2))
            said = [lexicon.mood_phrase(self.pair, side, rng) for _ in range(count)]
            text = " ".join(lexicon.finish(part, rng, True) for part in said)
        elif form.words[1]:
            text = bag(topic, rng, *form.words)
        else:
            mood: tuple[str, str] | None = None
            if "mood" in self.order:
                mood = (self.pair, side)
            elif rng.random() < self.noisy:
                other = rng.choice(list(lexicon.moods()))
                mood = (other, rng.choice(list(lexicon.moods()[other])))
            count = 2 if rng.random() < 0.2 else 1
            text = lexicon.message(topic, mood, rng, count)
        keys = {"topic": which, "topic_again": which, "mood": side, "mood_again": side}
        return text, tuple(self.labels[key][keys[key]] for key in self.order)


def draw_task(rng: Random, source: Source) -> Task:
    names = rng.sample(lexicon.words("fields"), 1 + len(source.order))
    named = "mood" in source.order and source.natural_mood and not source.truth
    if named and rng.random() < 0.6:
        names[1 + source.order.index("mood")] = source.pair
        if len(set(names)) < len(names):
            names[0] = "note"
    if source.truth and "mood" in source.order:
        truths = lexicon.read("words.toml")["truths"][source.pair].split()
        names[1 + source.order.index("mood")] = rng.choice(truths)
    told = rng.random() < 0.5
    outputs = []
    for name, key in zip(names[1:], source.order, strict=True):
        labels = list(source.labels[key].values())
        rng.shuffle(labels)
        desc = rng.choice(lexicon.words("descriptions")) if told else ""
        desc = desc.replace("{out}", name).replace("{in}", names[0])
        if key == "mood" and source.truth:
            outputs.append(Field(name, kind="bool", desc=desc))
        else:
            outputs.append(Field(name, labels=tuple(labels), desc=desc))
    outs = ", ".join(f"`{name}`" for name in names[1:])
    line = rng.choice(lexicon.words("instructions"))
    for slot, value in (("{in}", names[0]), ("{outs}", outs), ("{out}", names[1])):
        line = line.replace(slot, value)
    desc = rng.choice(lexicon.words("input_descriptions")) if told else ""
    return Task((Field(names[0], desc=desc),), tuple(outputs), line)


def classify(
    rng: Random,
    form: Form,
    room: Room,
    demos: int,
    natural: bool = False,
) -> list[Piece]:
    """An episode of classification with up to `demos` demonstrations, as far as there is room.

    `room` is told of every part in turn and says whether it still fits.
    """
    source = Source(rng, form, natural)
    if not form.markers:
        return _lines(rng, source, room, demos)
    task = draw_task(rng, source)
    pieces = [Piece(text) for text in render.system(task)] if form.system else []
    seen: dict[tuple[int, str], int] = {}
    room(pieces)
    last = _turn(task, *source.draw(), seen, natural, source, True, LAST) if form.system else []
    room(last)
    for _ in range(demos):
        turn = _turn(task, *source.draw(), seen, natural, source, False, 1.0)
        if not room(turn):
            break
        pieces += turn
        _note(turn, seen)
    if form.system:
        values = tuple(piece.text for piece in last if piece.seen >= 0)
        text = last[3].text
        pieces += _turn(task, text, values, seen, natural, source, True, LAST)
    return pieces


def _note(turn: list[Piece], seen: dict[tuple[int, str], int]) -> None:
    for piece in turn:
        if piece.seen >= 0:
            key = (piece.field, piece.text)
            seen[key] = seen.get(key, 0) + 1


def _turn(
    task: Task,
    text: str,
    values: tuple[str, ...],
    seen: dict[tuple[int, str], int],
    natural: bool,
    source: Source,
    request: bool,
    factor: float,
) -> list[Piece]:
    pieces = [Piece(piece) for piece in render.question(task, (text,), request)]
    field = -1
    marker_weight = MARKER_WEIGHT if request or source.rng.random() < MARKED_TURNS else 0.0
    for piece, is_value in render.answer(task, values):
        if not is_value:
            pieces.append(Piece(piece, marker_weight))
            continue
        field += 1
        shown = seen.get((field, piece), 0)
        told = {"topic": natural, "mood": source.natural_mood}.get(source.order[field], False)
        weight = factor if shown or told else FIRST_SEEN
        pieces.append(Piece(piece, weight, shown, field))
    return pieces


def _lines(rng: Random, source: Source, room: Room, demos: int) -> list[Piece]:
    """`word label` or `word: label` lines, the shortest form."""
    joint, space = rng.choice(
        [("", " "), (":", " "), (" =", " "), (render.MARK, ""), (render.TURN, "")]
    )
    pieces: list[Piece] = []
    seen: dict[tuple[int, str], int] = {}
    for _ in range(demos):
        text, values = source.draw()
        label = space + values[0]
        shown = seen.get((0, label), 0)
        turn = [Piece("\n"), Piece(text), Piece(joint)]
        turn.append(Piece(label, 1.0 if shown else FIRST_SEEN, shown))
        if not room(turn):
            break
        pieces += turn
        _note(turn, seen)
    return pieces
