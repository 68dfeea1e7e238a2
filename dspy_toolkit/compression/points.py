"""Candidates as points of score and cost, and which of them no other beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """One model with what was measured of it.

    Attributes:
        name: of the candidate; "original" for the model itself.
        folder: where the model lies.
        program: folder of a program compiled on this candidate, or None for the original's.
        size_bytes: of its weights on disk.
        memory_bytes: of its weights as loaded on this device.
        parameters: how many numbers it has.
        kl: divergence from the original on held-out answers, in nats a token, or None.
        score: mean of the program's metric over `examples` examples, or None.
        examples: how many it was scored on.
        interval: 95 % confidence interval of the score, or None.
        latency_p50_s, latency_p95_s: of one call alone, or None.
        state: "original", "kept", "dropped", "rolled back", "not needed" or "screened out".
        reason: why, in a few words.
    """

    name: str
    folder: str
    program: str | None
    size_bytes: int
    memory_bytes: int
    parameters: int
    kl: float | None = None
    score: float | None = None
    examples: int = 0
    interval: tuple[float, float] | None = None
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    state: str = "screened out"
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "interval": list(self.interval) if self.interval else None}


def dominates(one: Point, other: Point) -> bool:
    """Whether a point is at least as good in everything both were measured in, and better once.

    Score counts upwards; size, memory and median latency downwards.
    """
    if one.score is None or other.score is None:
        return False
    pairs = [
        (one.score, other.score),
        (-one.size_bytes, -other.size_bytes),
        (-one.memory_bytes, -other.memory_bytes),
    ]
    if one.latency_p50_s is not None and other.latency_p50_s is not None:
        pairs.append((-one.latency_p50_s, -other.latency_p50_s))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def front(points: Sequence[Point]) -> list[Point]:
    """The points with a score that no other dominates, in the order given."""
    scored = [point for point in points if point.score is not None]
    return [p for p in scored if not any(dominates(other, p) for other in scored)]
