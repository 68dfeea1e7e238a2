"""Finding marker strings in text that arrives in pieces, without sending any of them early.

Matching runs on decoded text, not on tokens: with a merged token such as `"\\n["`, a token matcher
for the stop string `"["` never fires. Text before a marker inside the same token is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Found:
    """What one piece of text brought.

    Attributes:
        text: text that is now known to hold no part of a marker.
        marker: the marker that was met, or None.
        rest: text after the marker; empty without one.
    """

    text: str
    marker: str | None = None
    rest: str = ""


class MarkerFinder:
    """Looks for the first of several strings in a growing text.

    The first is the one whose last character comes first, and of those that end together the
    longest: the choice depends on the text alone, never on how it was cut into pieces.
    """

    def __init__(self, markers: Iterable[str]) -> None:
        self._markers = tuple(dict.fromkeys(marker for marker in markers if marker))
        self._held = ""

    def feed(self, text: str) -> Found:
        """Take the next piece. After a marker was found the finder starts afresh."""
        held = self._held + text
        best: tuple[int, int, str] | None = None
        for marker in self._markers:
            start = held.find(marker)
            if start >= 0 and (best is None or (start + len(marker), start) < best[:2]):
                best = (start + len(marker), start, marker)
        if best is not None:
            end, start, marker = best
            self._held = ""
            return Found(held[:start], marker, held[end:])
        keep = max((_overlap(held, marker) for marker in self._markers), default=0)
        cut = len(held) - keep
        self._held = held[cut:]
        return Found(held[:cut])

    def flush(self) -> str:
        """Hand out what was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `marker`."""
    for size in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-size:]):
            return size
    return 0
