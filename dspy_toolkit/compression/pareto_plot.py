"""Candidates in the plane of size and score, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from dspy_toolkit.compression.points import Point, front

FILE = "pareto.svg"
_WIDTH, _HEIGHT = 680, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 656, 40, 344
_COLOURS = {
    "original": "#c60",
    "kept": "#080",
    "dropped": "#a33",
    "not needed": "#68a",
    "rolled back": "#a33",
}


def pareto_plot(title: str, points: Sequence[Point], recommended: str | None) -> str:
    """Draw scored points with their intervals; a line joins those that no other beats.

    Args:
        title: stands above the plot.
        points: at least one with a score.
        recommended: name of the point to mark, or None.

    Returns:
        An SVG document.
    """
    shown = [point for point in points if point.score is not None]
    axes = _Axes(shown)
    best = sorted(front(shown), key=lambda point: point.size_bytes)
    way = "L".join(f"{axes.x(p.size_bytes)} {axes.y(p.score or 0.0)}" for p in best)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            'font-family="sans-serif" font-size="12" fill="#333">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
            f'<text x="{_LEFT}" y="22" font-size="14">{escape(title)}</text>',
            *axes.lines(),
            f'<path class="front" fill="none" stroke="#c60" d="M{way}"/>',
            *(_dot(axes, point, point.name == recommended) for point in shown),
            "</svg>\n",
        ]
    )


class _Axes:
    """Where values lie in the picture, and the lines that say so."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._size = 1.05 * max(point.size_bytes for point in points)
        lows = [point.interval[0] if point.interval else point.score or 0.0 for point in points]
        highs = [point.interval[1] if point.interval else point.score or 0.0 for point in points]
        self._low = math.floor(10 * min(lows)) / 10
        self._high = max(math.ceil(10 * max(highs)) / 10, self._low + 0.1)

    def x(self, size: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * size / self._size, 1)

    def y(self, score: float) -> float:
        share = (score - self._low) / (self._high - self._low)
        return round(_BOTTOM - (_BOTTOM - _TOP) * share, 1)

    def lines(self) -> Iterator[str]:
        for tenth in range(round(10 * self._low), round(10 * self._high) + 1):
            y = self.y(tenth / 10)
            yield f'<path stroke="#ddd" d="M{_LEFT} {y}H{_RIGHT}"/>'
            yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{10 * tenth} %</text>'
        for part in range(5):
            size = self._size * part / 4
            yield (
                f'<text x="{self.x(size)}" y="{_BOTTOM + 18}" text-anchor="middle">'
                f"{size / 1e6:.3g} MB</text>"
            )
        yield (
            f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_HEIGHT - 10}" text-anchor="middle" '
            'font-size="11">size of the weights; dot: score, 95 % interval; '
            "line: no other is both smaller and better</text>"
        )


def _dot(axes: _Axes, point: Point, marked: bool) -> str:
    x, y = axes.x(point.size_bytes), axes.y(point.score or 0.0)
    low, high = (axes.y(end) for end in point.interval or (point.score or 0.0,) * 2)
    ring = f'<circle cx="{x}" cy="{y}" r="8" fill="none" stroke="#080"/>' if marked else ""
    colour = _COLOURS.get(point.state, "#246")
    told = f"{point.name}: {100 * (point.score or 0.0):.1f} % on {point.examples}, {point.state}"
    return (
        f'<g class="candidate"><title>{escape(told)}</title>'
        f'<path stroke="{colour}" d="M{x} {low}V{high}"/>'
        f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>{ring}'
        f'<text x="{x + 7}" y="{y - 7}" font-size="10">{escape(point.name)}</text></g>'
    )
