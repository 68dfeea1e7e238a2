"""What a breaker remembers of the calls that ended: how many, how many failed, how many slow."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Protocol

SLICES = 10


@dataclass(frozen=True, slots=True)
class Tally:
    """Numbers of calls."""

    calls: int = 0
    failed: int = 0
    slow: int = 0

    @property
    def failure_rate(self) -> float:
        """Share of failed calls, 0 of none."""
        return self.failed / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """Share of slow calls, 0 of none."""
        return self.slow / self.calls if self.calls else 0.0


class Window(Protocol):
    """Remembers the calls that count."""

    def add(self, now: float, failed: bool, slow: bool) -> None: ...

    def tally(self, now: float) -> Tally: ...


class CallWindow:
    """The last `size` calls."""

    def __init__(self, size: int) -> None:
        self._calls: deque[tuple[bool, bool]] = deque(maxlen=size)
        self._failed = 0
        self._slow = 0

    def add(self, now: float, failed: bool, slow: bool) -> None:
        """Count a call; the oldest makes place for it."""
        if len(self._calls) == self._calls.maxlen:
            old_failed, old_slow = self._calls[0]
            self._failed -= old_failed
            self._slow -= old_slow
        self._calls.append((failed, slow))
        self._failed += failed
        self._slow += slow

    def tally(self, now: float) -> Tally:
        """The numbers."""
        return Tally(len(self._calls), self._failed, self._slow)


class TimeWindow:
    """The calls of the last `seconds`, forgotten a tenth of that at a time.

    A slice starts at a multiple of its length, so a call counts for nine to ten tenths.
    """

    def __init__(self, seconds: float) -> None:
        self._slice_s = seconds / SLICES
        self._slices: deque[list[int]] = deque()

    def add(self, now: float, failed: bool, slow: bool) -> None:
        """Count a call that ended now."""
        number = math.floor(now / self._slice_s)
        if not self._slices or self._slices[-1][0] < number:
            self._slices.append([number, 0, 0, 0])
        latest = self._slices[-1]
        latest[1] += 1
        latest[2] += failed
        latest[3] += slow

    def tally(self, now: float) -> Tally:
        """The numbers as they are now."""
        first = math.floor(now / self._slice_s) - SLICES + 1
        while self._slices and self._slices[0][0] < first:
            self._slices.popleft()
        return Tally(*(sum(each[place] for each in self._slices) for place in (1, 2, 3)))
