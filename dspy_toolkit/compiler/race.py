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

Heard: TypeAlias = Callable[[int, Sequence[float]], None]
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
    score: Score,
    candidates: int,
    examples: int,
    rules: Rules,
    lead: Heard | None = None,
    left: Heard | None = None,
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
        left: told of each candidate when it leaves, and of those that race to the end, the best
            of them last; also where `score` raises.

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
    field = _Field(candidates, examples, left)
    spent = 0
    try:
        while field.done < examples and (len(field.alive) > 1 or not field.done):
            if field.done and rules.budget - spent < len(field.alive):
                break
            block = _block(len(field.alive), examples - field.done, rules.budget - spent)
            pairs = field.pairs(block)
            field.take(pairs, score(pairs))
            spent += len(pairs)
            field.leave(field.beaten(rules.alpha), BEATEN)
            order = field.ranked()
            if lead is not None:
                lead(order[0], field.scores(order[0]))
            if len(field.alive) * (examples - field.done) > rules.budget - spent:
                field.leave(order[_fewer(len(order)) :], ASIDE)
    finally:
        field.tell(field.ranked()[::-1])
    return Race(order[0], field.lanes())


class _Field:
    """Those that still race, and what everyone scored."""

    def __init__(self, candidates: int, examples: int, left: Heard | None) -> None:
        self._seen = np.full((candidates, examples), np.nan)
        self._ended = [RACING] * candidates
        self._left = left
        self.alive = list(range(candidates))
        self.done = 0

    def pairs(self, block: int) -> list[Pair]:
        """Everyone on the next examples."""
        return [(each, self.done + at) for each in self.alive for at in range(block)]

    def take(self, pairs: Sequence[Pair], values: Sequence[float]) -> None:
        for pair, value in zip(pairs, values, strict=True):
            self._seen[pair] = value
        self.done = pairs[-1][1] + 1

    def beaten(self, alpha: float) -> list[int]:
        """Those that another one is shown to be better than."""
        line = math.log(max(1, len(self._seen) - 1) / alpha)
        return [self.alive[row] for row in _beaten(self._seen[self.alive, : self.done], line)]

    def leave(self, leaving: Sequence[int], why: str) -> None:
        for each in leaving:
            self.alive.remove(each)
            self._ended[each] = why
        self.tell(leaving)

    def tell(self, leaving: Sequence[int]) -> None:
        if self._left is not None and self.done:
            for each in leaving:
                self._left(each, self.scores(each))

    def ranked(self) -> list[int]:
        """The best of those that race first; of equals, the one with the lower number."""
        return sorted(self.alive, key=lambda each: (-_mean(self.scores(each)), each))

    def scores(self, candidate: int) -> tuple[float, ...]:
        row = self._seen[candidate]
        return tuple(float(value) for value in row[~np.isnan(row)])

    def lanes(self) -> tuple[Lane, ...]:
        return tuple(Lane(self.scores(row), end) for row, end in enumerate(self._ended))


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


def _mean(scores: Iterable[float]) -> float:
    # Exact, so that equals are equal in whatever order their scores came.
    values = list(scores)
    return math.fsum(values) / max(1, len(values))
