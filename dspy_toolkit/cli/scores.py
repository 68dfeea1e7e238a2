"""How scores look to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
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


def with_interval(value: str, interval: Sequence[float], signed: bool = False) -> str:
    """A score and where the true one lies, as `45.7 %  (40.1 to 51.3)`."""
    return f"{value}  ({between(interval, signed)})"


def shown(path: Path | str) -> str:
    """A path as people write it, with `~` for the home folder."""
    place = Path(path)
    home = Path.home()
    return f"~/{place.relative_to(home)}" if place.is_relative_to(home) else str(place)


def verdict(gate: Mapping[str, Any]) -> str:
    """What a comparison says, as `better than the bare program  (e-value 120 of 40 needed)`."""
    strongest = max(gate["e_better"], gate["e_worse"])
    sure = f"e-value {strongest:.3g} of {2 / gate['alpha']:.3g} needed"
    return f"{gate['verdict']} than {rival(gate)}  ({sure})"


def rival(gate: Mapping[str, Any]) -> str:
    """What a result was compared with."""
    return shown(gate["against"]) if gate["against"] else "the bare program"


def calls(counts: Mapping[str, Any]) -> str:
    """Call counts as `1218, and 40 from the cache`."""
    cached = f", and {counts['cached']} from the cache" if counts["cached"] else ""
    return f"{counts['made']}{cached}"
