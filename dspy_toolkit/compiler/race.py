"""A race between candidates: scored side by side on the same examples, losers leave early.

All contenders take the same shuffled examples in blocks, so that they are compared in pairs and
not through easy and hard examples. After each block those leave that are shown to lose: some
contender's bet against them has grown so large that, were they the best, it would hardly ever
happen. When the budget cannot take all that remain to the end, the weaker half is set aside.

Plain Python over numbers: it knows neither programs nor models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dspy_toolkit.compiler.gate import log_wealth

Pair: TypeAlias = tuple[int, int]
Score: TypeAlias = Callable[[Sequence[Pair]], Sequence[float]]
"""Scores pairs of a candidate and an example, in [0, 1]."""

RACING, BEATEN, ASIDE = "racing", "beaten", "set aside"
LEAST_BLOCK = 4
"""Fewest examples of a block, where the budget allows: with less, chance alone decides."""


@dataclass(frozen=True)
class Rules:
    """How a race goes.

    Attributes:
        budget: most pairs that are scored; at least one block for each candidate is.
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
        return sum(self.scores) / len(self.scores)


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


def race(score: Score, candidates: int, examples: int, rules: Rules) -> Race:
    """Find the best candidate.

    Among candidates whose mean is the same the first wins, so put the cheaper ones first.

    Args:
        score: called with all pairs of a block, those of one candidate side by side, so that a
            model can keep what they have in common.
        candidates, examples: how many there are, at least one each. Examples are taken in the
            order of their numbers: shuffle them before.
        rules: budget and error rate.

    Raises:
        ValueError: there is no candidate or no example.

    Source:
        Setting aside: sequential halving, Karnin, Koren and Somekh, "Almost optimal exploration
        in multi-armed bandits", ICML 2013, with all earlier scores reused. Beaten: e-processes
        for each pair, see `gate.log_wealth`; over the best candidate's `candidates - 1` rivals
        the union bound gives `alpha` at every moment together.
    """
    if candidates < 1 or examples < 1:
        raise ValueError(f"a race needs candidates and examples, got {candidates} and {examples}")
    seen = np.full((candidates, examples), np.nan)
    ended = [RACING] * candidates
    alive, done, spent = list(range(candidates)), 0, 0
    while done < examples and (len(alive) > 1 or done == 0):
        block = _block(len(alive), examples - done, rules.budget - spent)
        if not block:
            break
        pairs = [(each, at) for each in alive for at in range(done, done + block)]
        for (each, at), value in zip(pairs, score(pairs), strict=True):
            seen[each, at] = value
        done, spent = done + block, spent + len(pairs)
        beaten = _beaten(seen[alive, :done], math.log(max(1, candidates - 1) / rules.alpha))
        _leave(alive, [alive[row] for row in beaten], ended, BEATEN)
        if len(alive) * (examples - done) > rules.budget - spent:
            order = sorted(alive, key=lambda each: (-float(seen[each, :done].mean()), each))
            _leave(alive, order[math.ceil(len(alive) / 2) :], ended, ASIDE)
    winner = max(alive, key=lambda each: (float(seen[each, :done].mean()), -each))
    return Race(winner, tuple(Lane(_given(row), end) for row, end in zip(seen, ended, strict=True)))


def _block(contenders: int, left: int, budget: int) -> int:
    """Examples of the next block: the budget is shared evenly over the halvings still to come."""
    rounds = max(1, math.ceil(math.log2(contenders)))
    share = budget // (rounds * contenders)
    return min(left, max(share, min(LEAST_BLOCK, budget // contenders)))


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


def _given(row: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in row[~np.isnan(row)])
