"""Finding the cheapest candidate that is good enough, without scoring all of them on everything.

Candidates are tried from the cheapest on, all on the same shuffled examples, block by block. One
that falls behind is left early; the first that lasts to the end and keeps the floor is taken, and
those dearer than it are not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dspy_toolkit.compiler.statistics import paired_interval

_LEVEL = 0.8
Score = Callable[[str, Sequence[int]], Sequence[float]]
"""Scores of a candidate on examples, by their numbers; in [0, 1]."""


@dataclass(frozen=True)
class Finish:
    """How a candidate came out of a race.

    Attributes:
        name: the candidate.
        scores: on the first examples of the order, as many as it was given.
        state: "kept", "dropped" or "not needed".
        reason: why.
    """

    name: str
    scores: tuple[float, ...]
    state: str
    reason: str


@dataclass(frozen=True)
class Track:
    """What a race runs on.

    Attributes:
        order: numbers of the examples, shuffled once for all.
        block: examples between two looks.
        floor: least difference to the original's mean that is good enough, at most 0 as a rule.
    """

    order: tuple[int, ...]
    block: int
    floor: float


def race(
    candidates: Sequence[str],
    original: Sequence[float],
    track: Track,
    score: Score,
    known: Mapping[str, Sequence[float]] | None = None,
) -> list[Finish]:
    """Race candidates against the original's scores.

    Args:
        candidates: by cost, the cheapest first.
        original: its scores in the track's order.
        track: examples and floor.
        score: scores a candidate; called with a block of examples at a time.
        known: scores of an earlier, interrupted race in the track's order.

    Returns:
        One finish a candidate, in the order given. At most one is "kept".
    """
    finishes: list[Finish] = []
    winner: str | None = None
    for name in candidates:
        scores = list((known or {}).get(name, ()))
        if winner is not None:
            finishes.append(
                Finish(name, tuple(scores), "not needed", f"{winner} is cheaper and good enough")
            )
            continue
        finishes.append(_run(name, scores, original, track, score))
        if finishes[-1].state == "kept":
            winner = name
    return finishes


def _run(
    name: str, scores: list[float], original: Sequence[float], track: Track, score: Score
) -> Finish:
    while len(scores) < len(track.order):
        if scores and behind(original[: len(scores)], scores, track.floor):
            return Finish(name, tuple(scores), "dropped", _told(original, scores, "falls behind"))
        block = track.order[len(scores) : len(scores) + track.block]
        scores += score(name, block)
    difference = fmean(scores) - fmean(original)
    if difference < track.floor - 1e-12:
        return Finish(name, tuple(scores), "dropped", _told(original, scores, "below the floor"))
    return Finish(name, tuple(scores), "kept", _told(original, scores, "good enough"))


def behind(original: Sequence[float], scores: Sequence[float], floor: float) -> bool:
    """Whether a candidate is so far below the floor that more examples will hardly change it.

    The 80 % interval of the paired difference ends below the floor. That is a choice of what to
    spend calls on, not a verdict: the gate judges whatever comes out of the race.
    """
    return paired_interval(original, scores, _LEVEL)[1] < floor


def _told(original: Sequence[float], scores: Sequence[float], what: str) -> str:
    difference = fmean(scores) - fmean(original[: len(scores)])
    return f"{what}: {100 * difference:+.1f} points on {len(scores)} examples"
