"""The frame of a plot of scores: a page, an axis of scores, and a place for every value, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 40, 24, 48
"""Margins."""


@dataclass(frozen=True)
class Frame:
    """Where values lie in a picture.

    Attributes:
        width, height: of the picture.
        widest: value at its right edge; 0 lies at its left.
        low, high: scores at its foot and its head.
    """

    width: int
    height: int
    widest: float
    low: float
    high: float

    @classmethod
    def around(
        cls, width: int, height: int, widest: float, intervals: Sequence[tuple[float, float]]
    ) -> Frame:
        """The frame whose scores are the tenths that hold every interval."""
        low = math.floor(10 * min(interval[0] for interval in intervals)) / 10
        high = math.ceil(10 * max(interval[1] for interval in intervals)) / 10
        return cls(width, height, widest, low, max(high, low + 0.1))

    def x(self, value: float) -> float:
        """Where a value lies."""
        room = self.width - _LEFT - _RIGHT
        return round(_LEFT + room * value / self.widest, 1)

    def y(self, score: float) -> float:
        """Where a score lies."""
        room = self.height - _TOP - _BOTTOM
        share = (score - self.low) / (self.high - self.low)
        return round(self.height - _BOTTOM - room * share, 1)

    def page(
        self, title: str, ticks: Iterable[tuple[float, str]], caption: str, parts: Iterable[str]
    ) -> str:
        """The whole document.

        Args:
            title: stands above.
            ticks: values to mark at the foot, and what is written there.
            caption: stands below.
            parts: what is drawn.
        """
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                'font-family="sans-serif" font-size="12" fill="#333">',
                f'<rect width="{self.width}" height="{self.height}" fill="#fff"/>',
                f'<text x="{_LEFT}" y="22" font-size="14">{escape(title)}</text>',
                *self._axes(ticks, caption),
                *parts,
                "</svg>\n",
            ]
        )

    def dot(
        self,
        at: tuple[float, float],
        interval: tuple[float, float],
        told: str,
        colours: tuple[str, str],
        more: str = "",
    ) -> str:
        """A candidate: a dot with its interval, which says what it is when pointed at.

        Args:
            at: value and score.
            interval: of the score.
            told: what it says.
            colours: of the interval and of the dot.
            more: what is drawn with it.
        """
        x, y = self.x(at[0]), self.y(at[1])
        low, high = map(self.y, interval)
        return (
            f'<g class="candidate"><title>{escape(told)}</title>'
            f'<path stroke="{colours[0]}" d="M{x} {low}V{high}"/>'
            f'<circle cx="{x}" cy="{y}" r="4" fill="{colours[1]}"/>{more}</g>'
        )

    def _axes(self, ticks: Iterable[tuple[float, str]], caption: str) -> Iterator[str]:
        right, foot = self.width - _RIGHT, self.height - _BOTTOM
        for tenth in range(round(10 * self.low), round(10 * self.high) + 1):
            y = self.y(tenth / 10)
            yield f'<path stroke="#ddd" d="M{_LEFT} {y}H{right}"/>'
            yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{10 * tenth} %</text>'
        for value, text in ticks:
            yield f'<text x="{self.x(value)}" y="{foot + 18}" text-anchor="middle">{text}</text>'
        yield (
            f'<text x="{(_LEFT + right) / 2}" y="{self.height - 8}" text-anchor="middle" '
            f'font-size="11">{escape(caption)}</text>'
        )
