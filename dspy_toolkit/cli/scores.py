"""How scores look to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def percent(score: float) -> str:
    """0.4567 as `45.7 %`."""
    return f"{100 * score:.1f} %"


def points(difference: float) -> str:
    """0.1567 as `+15.7 points`."""
    return f"{100 * difference:+.1f} points"


def between(interval: Sequence[float], signed: bool = False) -> str:
    """An interval as `40.1 to 51.3`."""
    sign = "+" if signed else ""
    return " to ".join(f"{100 * end:{sign}.1f}" for end in interval)


def calls(counts: Mapping[str, Any]) -> str:
    """Call counts as `1218, and 40 from the cache`."""
    cached = f", and {counts['cached']} from the cache" if counts["cached"] else ""
    return f"{counts['made']}{cached}"
