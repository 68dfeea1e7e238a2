"""A race between candidates: scored side by side on the same examples, losers leave early.

All contenders take the same shuffled examples in blocks, so that they are compared in pairs and
not through easy and hard examples. After each block those leave that are shown to lose: some
contender's bet against them has grown so large that, were they the best, it would hardly ever
happen. When the budget cannot take all that remain to the end, the weakest are set aside.

Plain Python over numbers: it knows neither programs nor models.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dspy_toolkit.compiler.gate import log_wealth

Pair: TypeAlias = tuple[int, int]
Score: TypeAlias = Callable[[Sequence[Pair]], Sequence[float]]
"""Scores pairs of a candidate and an example, in [0, 1]."""

Lead: TypeAlias = Callable[[int, Sequence[float]], None]
"""Hears a candidate and its scores."""

RACING, BEATEN, ASIDE = "racing", "beaten", "set aside"
_KEPT = 0.6
"""Share of the contenders that goes on where the budget cannot take all of them to the end."""


@dataclass(frozen=True)
class Rules:
    """How a race goes.

    Attributes:
        budget: most pairs that are scored; at least one example for each candidate is.
        alpha: bound on the chance that the best candidate is shown to lose.
    """

    budget: int
    alpha: float = 0.05


@dataclass(frozen=True)
class Lane:
    """How one candidate fared.

    Attributes:
        scores: on the examples it was given, in the race's order.
        ended: "racing" to the end, "beaten" by a contender, or "set aside" for want of budget.
    """

    scores: tuple[float, ...]
    ended: str

    @property
    def mean(self) -> float:
        """Mean score so far."""
        return _mean(self.scores)


@dataclass(frozen=True)
class Race:
    """A race that is over.

    Attributes:
        winner: number of the best candidate.
        lanes: by candidate.
    """

    winner: int
    lanes: tuple[Lane, ...]

    @property
    def scored(self) -> int:
        """Pairs that were scored."""
        return sum(len(lane.scores) for lane in self.lanes)


def race(
    score: Score, candidates: int, examples: int, rules: Rules, lead: Lead | None = None
) -> Race:
    """Find the best candidate.

    Among candidates whose mean is the same the first wins, so put the cheaper ones first.

    Args:
        score: called with all pairs of a block, those of one candidate side by side, so that a
            model can keep what they have in common.
        candidates, examples: how many there are, at least one each. Examples are taken in the
            order of their numbers: shuffle them before.
        rules: budget and error rate.
        lead: told who is ahead after each block.

    Raises:
        ValueError: there is no candidate or no example.

    Source:
        Setting aside: sequential halving, Karnin, Koren and Somekh, "Almost optimal exploration
        in multi-armed bandits", ICML 2013, with all earlier scores reused, 0.6 for the half and
        blocks as long as use the budget up. Beaten: e-processes
        for each pair, see `gate.log_wealth`; over the best candidate's `candidates - 1` rivals
        the union bound gives `alpha` at every moment together.
    """
    if candidates < 1 or examples < 1:
        raise ValueError(f"a race needs candidates and examples, got {candidates} and {examples}")
    seen = np.full((candidates, examples), np.nan)
    ended = [RACING] * candidates
    alive, done, spent = list(range(candidates)), 0, 0
    while done < examples and (len(alive) > 1 or done == 0):
        if done and rules.budget - spent < len(alive):
            break
        block = _block(len(alive), examples - done, rules.budget - spent)
        pairs = [(each, at) for each in alive for at in range(done, done + block)]
        for (each, at), value in zip(pairs, score(pairs), strict=True):
            seen[each, at] = value
        done, spent = done + block, spent + len(pairs)
        beaten = _beaten(seen[alive, :done], math.log(max(1, candidates - 1) / rules.alpha))
        _leave(alive, [alive[row] for row in beaten], ended, BEATEN)
        order = sorted(alive, key=lambda each: (-_mean(seen[each, :done]), each))
        if lead is not None:
            lead(order[0], _given(seen[order[0]]))
        if len(alive) * (examples - done) > rules.budget - spent:
            _leave(alive, order[_fewer(len(alive)) :], ended, ASIDE)
    return Race(
        order[0], tuple(Lane(_given(row), end) for row, end in zip(seen, ended, strict=True))
    )


def _block(contenders: int, left: int, budget: int) -> int:
    """Examples of the next block, so that the rounds to come cost the same and use the budget."""
    fields = [contenders]
    while fields[-1] > _fewer(fields[-1]):
        fields.append(_fewer(fields[-1]))

    def blocks(each: int) -> list[int]:
        found, room = [], left
        for field in fields:
            found.append(min(room, each // field))
            room -= found[-1]
        return found

    def fits(each: int) -> bool:
        cost = sum(field * block for field, block in zip(fields, blocks(each), strict=True))
        return cost <= budget

    # Beyond this price of a round, one more changes nothing.
    most = contenders * left
    price = bisect_left(range(most + 1), True, key=lambda each: not fits(each)) - 1
    return max(blocks(price)[0], min(1, left))


def _fewer(contenders: int) -> int:
    return min(contenders, max(2, math.ceil(_KEPT * contenders)))


def _beaten(scores: NDArray[np.float64], line: float) -> list[int]:
    """Rows that some other row is shown to be better than, at any moment so far."""
    losers = []
    for row, own in enumerate(scores):
        ahead = scores - own
        ahead[row] = 0.0
        if float(log_wealth(ahead).max()) >= line:
            losers.append(row)
    # Each of two may have been ahead by far at some moment; somebody has to go on.
    return losers if len(losers) < len(scores) else []


def _leave(alive: list[int], leaving: Sequence[int], ended: list[str], why: str) -> None:
    for each in leaving:
        alive.remove(each)
        ended[each] = why


def _mean(scores: Iterable[float]) -> float:
    # Exact, so that equals are equal in whatever order their scores came.
    values = list(scores)
    return math.fsum(values) / len(values)


def _given(row: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in row[~np.isnan(row)])
