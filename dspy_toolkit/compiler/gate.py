"""Whether one program is better than another, judged on the same examples.

The test is a bet. Before each example a sum is put on the new program; the wealth grows where it
scores higher and shrinks where it scores lower. Were it no better, no way of betting would make
the wealth grow in the long run, and it would ever reach 1/a with a chance of a at most. So a large
wealth is evidence, at whatever moment one looks: whoever stops early, or adds examples to an
undecided comparison, makes no more errors than stated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
BETTER, NOT_SHOWN, WORSE = "better", "not shown better", "worse"

# Shares of the wealth that are staked: midpoints, so that no loss takes everything.
_STAKES = (np.arange(50) + 0.5) / 50
_LARGEST_LOG = 690.0


@dataclass(frozen=True)
class Judgement:
    """What a comparison says.

    Attributes:
        verdict: "better", "not shown better" or "worse".
        alpha: bound on the chance of a false "better" or "worse", both together, between
            programs that are equally good.
        e_better, e_worse: evidence for either, as the factor by which a fair bet's stake grew;
            the verdict is given from `2 / alpha` on.
        n: number of examples.
    """

    verdict: str
    alpha: float
    e_better: float
    e_worse: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """The judgement as JSON values."""
        return asdict(self)


def judge(before: Sequence[float], after: Sequence[float], alpha: float = ALPHA) -> Judgement:
    """Say whether the second program is better than the first, worse, or neither is shown.

    Each direction has half of `alpha`. The examples' order does not matter, swapping the two
    programs swaps the verdict, and the verdict never contradicts the sign of the mean difference.

    Args:
        before: scores in [0, 1], one an example; drawn from whatever the claim is about.
        after: scores of the same examples in the same order.
        alpha: chance of a false verdict, in (0, 1).

    Raises:
        ValueError: the lengths differ, there is no pair, or a number is outside its range.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"judge needs equal pairs, got {len(before)} and {len(after)}")
    if not all(0.0 <= score <= 1.0 for score in (*before, *after)):
        raise ValueError("judge needs scores within [0, 1]")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    differences = np.subtract(after, before)
    better, worse = float(log_wealth(differences)[-1]), float(log_wealth(-differences)[-1])
    line = math.log(2 / alpha)
    verdict = BETTER if better >= line else WORSE if worse >= line else NOT_SHOWN
    return Judgement(verdict, alpha, _factor(better), _factor(worse), len(before))


def log_wealth(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Wealth of a bet on positive differences, after each of them.

    The stake is spread evenly over constant bets of a share b of the wealth, each of which is
    multiplied by 1 + b d at every difference d. Under differences whose expectation, given those
    before, is at most 0, the sum is a non-negative supermartingale that starts at 1 (an e-process).

    Args:
        differences: (..., n), each within [-1, 1]; the last axis is time.

    Returns:
        (..., n), natural logarithms; the last one depends on the values alone, not on their order.

    Source:
        Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
        JRSS B 86 (2024), the diversified bets (dKelly); that the wealth reaches 1/a with a
        chance of a at most is Ville's inequality. For differences of -1, 0 and 1 it is Robbins'
        mixture test of the discordant pairs, "Statistical methods related to the law of the
        iterated logarithm", Ann. Math. Statist. 41 (1970).
    """
    total = np.full(differences.shape, -np.inf)
    for stake in _STAKES:
        np.logaddexp(total, np.cumsum(np.log1p(stake * differences), axis=-1), out=total)
    return total - math.log(len(_STAKES))


def _factor(log: float) -> float:
    return float(f"{math.exp(min(log, _LARGEST_LOG)):.6g}")
