"""Scoring what a row might go on with, in forks of it that all run together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from dspy_toolkit.engine.row import Row
from dspy_toolkit.engine.runner import Runner
from dspy_toolkit.engine.stats import Counts
from dspy_toolkit.engine.weighing import Question

# Most forks that run together: each has memory of its own for the tokens it does not share.
_FORKS = 32


@dataclass(frozen=True)
class Asked:
    """A question about a row.

    Attributes:
        slot: of the row.
        length: how many of its tokens the forks begin with.
        lead: tokens that every fork reads before its path. Where there are none, all of the row
            is before the paths, and `logits` are of what follows.
        logits: (vocab,), of what follows the row's last token.
        question: what is asked.
    """

    slot: int
    length: int
    lead: list[int]
    logits: mx.array
    question: Question


@dataclass(frozen=True)
class _Pick:
    """A score that is wanted: of `token` behind `place` of a row, for a step of a question."""

    row: int
    place: int
    token: int
    question: int
    step: int


def weigh(runner: Runner, rows: Sequence[Row], logits: mx.array, counts: Counts) -> None:
    """Weigh the options of rows that have come to a choice.

    Args:
        runner: runs the forks.
        rows: of a step; those without a question are passed over.
        logits: (rows, vocab), of what follows each row's last token.
        counts: the stepper's.
    """
    asked, weighers = [], []
    for place, row in enumerate(rows):
        weigher = row.chooser.weigher
        if weigher is not None and weigher.question is not None:
            base = len(row.sequence.prompt) + weigher.question.base
            lead = row.tokens[base - 1 : base] if base < len(row.tokens) else []
            length = base - len(lead)
            asked.append(Asked(row.slot, length, lead, logits[place], weigher.question))
            weighers.append(weigher)
    if asked:
        for weigher, found in zip(weighers, score(runner, asked, counts), strict=True):
            weigher.settle(found)


def score(runner: Runner, asked: Sequence[Asked], counts: Counts) -> list[list[float]]:
    """The log probabilities of every question's steps, over the whole vocabulary, in nats."""
    found = [[0.0] * len(each.question.steps()) for each in asked]
    roots: list[_Pick] = []
    wanted: list[_Pick] = []
    forks: list[tuple[Asked, list[int]]] = []
    for number, each in enumerate(asked):
        begin, lead = len(forks), len(each.lead)
        forks += [(each, [*each.lead, *path]) for path in each.question.rows if lead or path]
        for step, (row, place, token) in enumerate(each.question.steps()):
            if place + lead:
                wanted.append(_Pick(begin + row, place + lead - 1, token, number, step))
            else:
                roots.append(_Pick(number, 0, token, number, step))
    _pick(mx.stack([each.logits for each in asked])[:, None], roots, 0, found)
    for begin in range(0, len(forks), _FORKS):
        group = forks[begin : begin + _FORKS]
        slots = [runner.slots.fork(each.slot, each.length) for each, _ in group]
        logits = runner.run(slots, [tokens for _, tokens in group], every=True)
        counts.run(len(group))
        counts.weighed += sum(len(tokens) for _, tokens in group)
        here = [pick for pick in wanted if begin <= pick.row < begin + _FORKS]
        _pick(logits, here, begin, found)
        mx.eval(runner.slots.arrays())
        for slot in slots:
            runner.slots.free(slot)
    return found


def _pick(logits: mx.array, picks: Sequence[_Pick], begin: int, found: list[list[float]]) -> None:
    """Put the wanted log probabilities of (rows, places, vocab) in their places."""
    if not picks:
        return
    full = logits.astype(mx.float32)
    rows = mx.array([pick.row - begin for pick in picks])
    places = mx.array([pick.place for pick in picks])
    tokens = mx.array([pick.token for pick in picks])
    scores = full[rows, places, tokens] - mx.logsumexp(full, axis=-1)[rows, places]
    for pick, value in zip(picks, np.array(scores), strict=True):
        found[pick.question][pick.step] = float(value)
