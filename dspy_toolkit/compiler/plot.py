"""A plot of candidates' scores against the calls they cost, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from dspy_toolkit.compiler.frame import Frame

FILE = "candidates.svg"
_CAPTION = (
    "model calls, cached ones included; dot: validation score, 95 % interval; line: best so far"
)


@dataclass(frozen=True)
class Point:
    """One candidate.

    Attributes:
        calls: model calls of the run when it was scored, answers from the cache included.
        score: in [0, 1].
        interval: where its true score lies.
    """

    calls: int
    score: float
    interval: tuple[float, float]


def score_plot(title: str, points: Sequence[Point]) -> str:
    """Draw candidates as dots with their intervals, and the best so far as a line.

    Args:
        title: stands above the plot.
        points: at least one, in the order they were scored.

    Returns:
        An SVG document.
    """
    calls = max(1, *(point.calls for point in points))
    frame = Frame.around(640, 360, calls, [point.interval for point in points])
    ticks = ((each, str(each)) for each in range(0, calls + 1, _round_step(calls / 5)))
    dots = (_dot(frame, number, point) for number, point in enumerate(points, start=1))
    return frame.page(title, ticks, _CAPTION, [_best(frame, points), *dots])


def _best(frame: Frame, points: Sequence[Point]) -> str:
    best = list(accumulate((point.score for point in points), max))
    begin = f"M{frame.x(points[0].calls)} {frame.y(best[0])}"
    rest = (
        f"H{frame.x(point.calls)}V{frame.y(score)}"
        for point, score in zip(points[1:], best[1:], strict=True)
    )
    line = begin + "".join(rest)
    return f'<path class="best" fill="none" stroke="#c60" stroke-width="2" d="{line}"/>'


def _dot(frame: Frame, number: int, point: Point) -> str:
    told = f"candidate {number}: {100 * point.score:.1f} % after {point.calls} calls"
    return frame.dot((point.calls, point.score), point.interval, told, ("#68a", "#246"))


def _round_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not below `least`."""
    power = int(10 ** math.floor(math.log10(max(least, 1))))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
