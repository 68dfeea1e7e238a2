"""A plot of candidates' scores against the calls they cost, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from xml.sax.saxutils import escape

FILE = "candidates.svg"
_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 616, 40, 312


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
    axes = _Axes(points)
    best = list(accumulate((point.score for point in points), max))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            'font-family="sans-serif" font-size="12" fill="#333">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
            f'<text x="{_LEFT}" y="22" font-size="14">{escape(title)}</text>',
            *axes.lines(),
            f'<path class="best" fill="none" stroke="#c60" stroke-width="2" '
            f'd="{_steps(axes, points, best)}"/>',
            *(_dot(axes, number, point) for number, point in enumerate(points, start=1)),
            "</svg>\n",
        ]
    )


class _Axes:
    """Where values lie in the picture, and the lines that say so."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._calls = max(1, *(point.calls for point in points))
        # Tenths that hold every interval.
        self._low = math.floor(10 * min(point.interval[0] for point in points)) / 10
        highest = math.ceil(10 * max(point.interval[1] for point in points)) / 10
        self._high = max(highest, self._low + 0.1)

    def x(self, calls: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * calls / self._calls, 1)

    def y(self, score: float) -> float:
        share = (score - self._low) / (self._high - self._low)
        return round(_BOTTOM - (_BOTTOM - _TOP) * share, 1)

    def lines(self) -> Iterator[str]:
        for tenth in range(round(10 * self._low), round(10 * self._high) + 1):
            y = self.y(tenth / 10)
            yield f'<path stroke="#ddd" d="M{_LEFT} {y}H{_RIGHT}"/>'
            yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{10 * tenth} %</text>'
        step = _round_step(self._calls / 5)
        for calls in range(0, self._calls + 1, step):
            yield (
                f'<text x="{self.x(calls)}" y="{_BOTTOM + 18}" text-anchor="middle">{calls}</text>'
            )
        middle = (_LEFT + _RIGHT) / 2
        yield (
            f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle" font-size="11">'
            "model calls, cached ones included; dot: validation score, 95 % interval; "
            "line: best so far</text>"
        )


def _steps(axes: _Axes, points: Sequence[Point], best: Sequence[float]) -> str:
    begin = f"M{axes.x(points[0].calls)} {axes.y(best[0])}"
    rest = (
        f"H{axes.x(point.calls)}V{axes.y(score)}"
        for point, score in zip(points[1:], best[1:], strict=True)
    )
    return begin + "".join(rest)


def _dot(axes: _Axes, number: int, point: Point) -> str:
    x, y = axes.x(point.calls), axes.y(point.score)
    low, high = map(axes.y, point.interval)
    told = f"candidate {number}: {100 * point.score:.1f} % after {point.calls} calls"
    return (
        f'<g class="candidate"><title>{told}</title>'
        f'<path stroke="#68a" d="M{x} {low}V{high}"/>'
        f'<circle cx="{x}" cy="{y}" r="4" fill="#246"/></g>'
    )


def _round_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not below `least`."""
    power = int(10 ** math.floor(math.log10(max(least, 1))))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
