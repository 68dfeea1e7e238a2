"""Intervals for scores in [0, 1] and for paired differences, in closed form.

Compile runs score tens to hundreds of examples, mostly 0 or 1, often near the ends of the
scale. There the textbook mean plus or minus two standard errors covers far less than it says;
the two intervals here keep their level (the tests simulate it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean

Interval = tuple[float, float]
_TINY = 1e-12


def mean_interval(scores: Sequence[float], level: float = 0.95) -> Interval:
    """Confidence interval of a mean score.

    For scores of 0 and 1 this is Wilson's interval. Scores between spread less than 0/1 scores of
    the same mean, so they count as more than `n` of those: the effective sample size is `n` times
    the ratio of the two variances. One made-up 0/1 observation keeps the variance above zero.

    Args:
        scores: at least one number in [0, 1].
        level: share of repetitions whose interval holds the true mean.

    Returns:
        (low, high) within [0, 1].

    Raises:
        ValueError: no scores, or one outside [0, 1].

    Source:
        E. B. Wilson, "Probable inference", JASA 22 (1927); effective sample size as in Kott and
        Carr, "Developing an estimation strategy", J. Official Statistics 13 (1997).
    """
    if not scores or not all(0.0 <= score <= 1.0 for score in scores):
        raise ValueError("mean_interval needs at least one score, each within [0, 1]")
    n, mean = len(scores), fmean(scores)
    largest = mean * (1 - mean)
    spread = fmean([(score - mean) ** 2 for score in scores])
    variance = ((n - 1) * spread + largest) / n
    # At the ends of the scale both are 0, or too small to divide.
    return wilson(mean, n if variance < _TINY else n * largest / variance, level)


def wilson(share: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share seen in `n` trials.

    Raises:
        ValueError: `share` is outside [0, 1] or `n` is not positive.
    """
    if not 0.0 <= share <= 1.0 or n <= 0:
        raise ValueError(f"wilson needs a share in [0, 1] of n > 0 trials, got {share} of {n}")
    z2 = _z(level) ** 2
    centre = share + z2 / (2 * n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n)))
    scale = 1 + z2 / n
    low, high = (centre - half) / scale, (centre + half) / scale
    # Rounding must not push the ends past the share itself at 0 and 1.
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def paired_interval(
    before: Sequence[float], after: Sequence[float], level: float = 0.95
) -> Interval:
    """Confidence interval of the mean of `after - before`, scored on the same examples.

    Two made-up pairs (half a gain, half a loss, one tie) are added before the normal interval is
    formed, which keeps its level when few examples differ; none differing gives a narrow interval
    around 0, not an empty one.

    Args:
        before: scores in [0, 1], one an example.
        after: scores of the same examples in the same order.
        level: share of repetitions whose interval holds the true difference.

    Returns:
        (low, high) within [-1, 1].

    Raises:
        ValueError: the lengths differ, or there is no pair.

    Source:
        Agresti and Min, "Simple improved confidence intervals for comparing matched
        proportions", Statistics in Medicine 24 (2005), applied to differences in [-1, 1].
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"paired_interval needs equal pairs, got {len(before)} and {len(after)}")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    n = len(differences) + 2
    mean = sum(differences) / n
    square = (sum(d * d for d in differences) + 1.0) / n
    half = _z(level) * math.sqrt((square - mean * mean) / n)
    return max(-1.0, mean - half), min(1.0, mean + half)


def _z(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)
