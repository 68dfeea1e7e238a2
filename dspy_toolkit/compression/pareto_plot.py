"""Candidates in the plane of size and score, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from dspy_toolkit.compiler.frame import Frame
from dspy_toolkit.compression.points import Point, front

FILE = "pareto.svg"
_CAPTION = (
    "size of the weights; dot: score, 95 % interval; line: no other is both smaller and better"
)
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
    widest = 1.05 * max(point.size_bytes for point in shown)
    frame = Frame.around(680, 400, widest, [_interval(point) for point in shown])
    ticks = ((widest * part / 4, f"{widest * part / 4e6:.3g} MB") for part in range(5))
    best = sorted(front(shown), key=lambda point: point.size_bytes)
    way = "L".join(f"{frame.x(p.size_bytes)} {frame.y(p.score or 0.0)}" for p in best)
    line = f'<path class="front" fill="none" stroke="#c60" d="M{way}"/>'
    dots = (_dot(frame, point, point.name == recommended) for point in shown)
    return frame.page(title, ticks, _CAPTION, [line, *dots])


def _interval(point: Point) -> tuple[float, float]:
    return point.interval or (point.score or 0.0, point.score or 0.0)


def _dot(frame: Frame, point: Point, marked: bool) -> str:
    score, colour = point.score or 0.0, _COLOURS.get(point.state, "#246")
    x, y = frame.x(point.size_bytes), frame.y(score)
    ring = f'<circle cx="{x}" cy="{y}" r="8" fill="none" stroke="#080"/>' if marked else ""
    name = f'<text x="{x + 7}" y="{y - 7}" font-size="10">{escape(point.name)}</text>'
    told = f"{point.name}: {100 * score:.1f} % on {point.examples}, {point.state}"
    place = (point.size_bytes, score)
    return frame.dot(place, _interval(point), told, (colour, colour), ring + name)
