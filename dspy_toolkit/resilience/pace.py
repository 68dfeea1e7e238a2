"""How long an engine takes now, as seen in its good answers."""

from __future__ import annotations

import threading
from collections import deque

from dspy_toolkit.resilience.policy import SheddingPolicy

KEPT = 256
# Sorting on every call would cost more than the rest of a guarded call.
REFRESH = 16


class Pace:
    """Observed times of one engine; old ones are forgotten, so refused calls come back."""

    def __init__(self, policy: SheddingPolicy) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._expected: float | None = None
        self._stale = 0
        self._oldest = 0.0

    def saw(self, now: float, seconds: float) -> None:
        """Record a good answer that ended now."""
        with self._lock:
            self._seen.append((now, seconds))
            self._stale += 1

    def expected_s(self, now: float) -> float | None:
        """Seconds a call takes; None where too little was seen lately."""
        first = now - self._policy.window_s
        fresh = self._stale < (REFRESH if self._expected is not None else 1)
        if fresh and self._oldest >= first:
            return self._expected
        with self._lock:
            while self._seen and self._seen[0][0] < first:
                self._seen.popleft()
            self._stale = 0
            self._oldest = self._seen[0][0] if self._seen else now
            self._expected = self._quantile()
            return self._expected

    def _quantile(self) -> float | None:
        if len(self._seen) < self._policy.minimum_calls:
            return None
        ordered = sorted(seconds for _, seconds in self._seen)
        return ordered[min(int(self._policy.quantile * len(ordered)), len(ordered) - 1)]
