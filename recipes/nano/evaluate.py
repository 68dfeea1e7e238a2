"""Print a table of accuracies of an exported model, which mlx-lm loads and runs.

python evaluate.py --model embedded --episodes 100
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import episodes
import extract
import render
from episodes import FORMS, Form, Piece
from extract import HELD_OUT_DOMAINS, Extraction, Questions
from lexicon import HELD_OUT_LABELS, HELD_OUT_TOPICS, MAIN

from dspy_toolkit.engine.blas import preload_blas

FULL = FORMS["full"]
SHOTS = (0, 2, 4, 8)
LONGEST = 48
VALUE = re.compile(r"\[\[ ## (\w+) ## \]\]\n(.*?)\n\n(?=\[\[ ## )", re.DOTALL)


Draw = Callable[[Random, int], list[Piece]]


@dataclass(frozen=True)
class Kind:
    """One sort of task; `rows` names each output field that is scored and its chance level."""

    name: str
    rows: tuple[tuple[str, str], ...]
    draw: Draw


def always(_: list[Piece]) -> bool:
    return True


def classification(form: Form, natural: bool = False) -> Draw:
    return lambda rng, shots: episodes.classify(rng, form, always, shots, natural=natural)


def spans(make: Callable[[Random], Extraction | Questions]) -> Draw:
    return lambda rng, shots: extract.episode(rng, make(rng), always, shots)


def kinds() -> tuple[Kind, ...]:
    two = replace(FULL, orders=(0, 0, 1), pair="urgency")
    one = replace(FULL, orders=(1,))
    shop = replace(two, kinds=(4, 4), pool=MAIN, named=1.0)
    new = replace(shop, label_pool=HELD_OUT_LABELS, named=0.0)
    both = (("topic", "25"), ("urgency", "50"))
    pair, four = (("topic", "50"),), (("topic", "25"),)
    held_out = replace(one, kinds=(2, 2), pool=HELD_OUT_TOPICS)
    made_up = replace(one, kinds=(2, 2), made_up=1.0)
    return (
        Kind("four shop themes, urgency named", both, classification(shop)),
        Kind("the same, both with labels never trained", both, classification(new)),
        Kind("two of any topics", pair, classification(replace(one, kinds=(2, 2)))),
        Kind("four of any topics", four, classification(replace(one, kinds=(4, 4)))),
        Kind("two of any topics, labels of no words", pair, classification(made_up)),
        Kind("two topics never trained", pair, classification(held_out)),
        Kind("four topics, named", four, classification(replace(one, kinds=(4, 4)), natural=True)),
        *_of_domains("", ()),
        *_of_domains(", domains never trained", HELD_OUT_DOMAINS),
    )


def _of_domains(where: str, domains: tuple[str, ...]) -> tuple[Kind, ...]:
    def asked(yes_no: bool | None, reasons: bool) -> Draw:
        return spans(lambda rng: Questions(rng, yes_no, reasons, domains))

    lines = (("reasoning", "0"), ("answer", "20"))
    return (
        Kind("parts of a sentence" + where, (("first", "0"),),
             spans(lambda rng: Extraction(rng, domains))),
        Kind("question, span" + where, (("answer", "0"),), asked(False, False)),
        Kind("question, yes or no" + where, (("answer", "50"),), asked(True, False)),
        Kind("either, with a line of reasoning" + where, lines, asked(None, True)),
    )  # fmt: skip


def answers(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """The greedy answers to rendered prompts."""
    from mlx_lm.generate import batch_generate

    ids = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
    return list(batch_generate(model, tokenizer, ids, max_tokens=LONGEST).texts)


def score(model: Any, tokenizer: Any, kind: Kind, shots: int, count: int) -> list[float]:
    """Percent right for each row of a kind, which is an output field of the same place."""
    prompts, goals = [], []
    for seed in range(count):
        pieces = kind.draw(Random(f"evaluate:{kind.name}:{seed}"), shots)
        last = max(i for i, piece in enumerate(pieces) if piece.text == render.TURN)
        prompts.append("".join(piece.text for piece in pieces[: last + 1]))
        goals.append([piece.text.casefold() for piece in pieces[last:] if piece.seen >= 0])
    right = [0] * len(kind.rows)
    for text, wanted in zip(answers(model, tokenizer, prompts), goals, strict=True):
        found = [value.casefold() for _, value in VALUE.findall(text)]
        if len(found) == len(wanted):
            right = [total + (found[row] == wanted[row]) for row, total in enumerate(right)]
    return [100 * value / count for value in right]


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--model", type=Path, required=True)
    parse.add_argument("--episodes", type=int, default=100, help="episodes a cell")
    parse.add_argument("--only", default="", help="kinds of tasks whose name holds this")
    args = parse.parse_args()
    preload_blas()
    import mlx.core as mx
    import mlx_lm

    model, tokenizer = mlx_lm.load(str(args.model))
    # Halves are emulated on a CPU, and slow.
    model.set_dtype(mx.float32)
    sys.stdout.write("| task | field | chance | " + " | ".join(map(str, SHOTS)) + " |\n")
    sys.stdout.write("|---" * (3 + len(SHOTS)) + "|\n")
    for kind in (each for each in kinds() if args.only in each.name):
        columns = [score(model, tokenizer, kind, shots, args.episodes) for shots in SHOTS]
        for row, (name, chance) in enumerate(kind.rows):
            cells = " | ".join(f"{column[row]:.0f}" for column in columns)
            sys.stdout.write(f"| {kind.name} | {name} | {chance} | {cells} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
