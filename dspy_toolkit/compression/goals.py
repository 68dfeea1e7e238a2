"""What a compressed model must keep to: goals as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dspy_toolkit.compression.points import Point
from dspy_toolkit.errors import InvalidInput, nearest

QUANTITIES = ("memory", "size", "score", "latency", "parameters")
_BYTES = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "B": 1.0}
_COUNTS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}
_SECONDS = {"MS": 1e-3, "S": 1.0}
_FORM = re.compile(
    r"(?P<quantity>[a-z]+)(?: +(?P<percentile>p50|p95))? *(?P<sign><=|>=) *(?P<limit>.+)"
)
_EXAMPLES = "'memory<=2GB', 'size<=0.5x', 'score>=baseline-0.02' or 'latency p50<=0.8x'"


@dataclass(frozen=True)
class Goal:
    """One goal.

    Attributes:
        text: as it was written.
        quantity: one of `QUANTITIES`.
        percentile: of latency, "p50" or "p95".
        limit: bytes, seconds, a score in [0, 1], or a count.
        relative: whether `limit` is a factor of the original's value (for score: what is added).
    """

    text: str
    quantity: str
    percentile: str
    limit: float
    relative: bool

    def bound(self, original: Point) -> float:
        """The limit in the quantity's own unit."""
        if not self.relative:
            return self.limit
        value = self.value(original)
        if value is None:
            return self.limit
        return value + self.limit if self.quantity == "score" else value * self.limit

    def value(self, point: Point) -> float | None:
        """A point's value of the quantity, or None where it was not measured."""
        if self.quantity == "latency":
            return point.latency_p50_s if self.percentile == "p50" else point.latency_p95_s
        return {
            "memory": point.memory_bytes,
            "size": point.size_bytes,
            "score": point.score,
            "parameters": point.parameters,
        }[self.quantity]

    def holds(self, point: Point, original: Point) -> bool:
        """Whether a point keeps to the goal; one that was not measured does not."""
        value = self.value(point)
        if value is None:
            return False
        bound = self.bound(original)
        return value >= bound - 1e-12 if self.quantity == "score" else value <= bound + 1e-12

    def miss(self, point: Point, original: Point) -> float:
        """By what share of the bound a point misses the goal; 0 where it holds."""
        value, bound = self.value(point), self.bound(original)
        if value is None:
            return float("inf")
        gap = bound - value if self.quantity == "score" else value - bound
        return max(0.0, gap) / max(abs(bound), 1e-12)


def parse_goal(text: str) -> Goal:
    """Read a goal.

    Raises:
        InvalidInput: it cannot be read, or asks for what makes no sense.
    """
    words = " ".join(text.split())
    found = _FORM.fullmatch(words)
    if found is None:
        raise InvalidInput(f"goal {text!r} cannot be read; write for example {_EXAMPLES}")
    quantity, sign, limit = found["quantity"], found["sign"], found["limit"].strip()
    if quantity not in QUANTITIES:
        raise InvalidInput(f"goal {text!r}: {nearest(quantity, QUANTITIES)}")
    if (sign == ">=") != (quantity == "score"):
        wanted = ">=" if quantity == "score" else "<="
        raise InvalidInput(f"goal {text!r}: {quantity} is bounded with {wanted}")
    if found["percentile"] and quantity != "latency":
        raise InvalidInput(f"goal {text!r}: only latency has a percentile")
    value, relative = _score(text, limit) if quantity == "score" else _limit(text, quantity, limit)
    return Goal(words, quantity, found["percentile"] or "p50", value, relative)


def _score(text: str, limit: str) -> tuple[float, bool]:
    relative = limit.startswith("baseline")
    rest = limit.removeprefix("baseline").replace(" ", "")
    if relative and not rest:
        return 0.0, True
    value = _number(text, rest)
    if not (-1 <= value <= 1 if relative else 0 <= value <= 1):
        raise InvalidInput(f"goal {text!r}: scores lie between 0 and 1")
    return value, relative


def _limit(text: str, quantity: str, limit: str) -> tuple[float, bool]:
    if limit.lower().endswith("x"):
        factor = _number(text, limit[:-1])
        relative = True
    else:
        units = {"latency": _SECONDS, "parameters": _COUNTS}.get(quantity, _BYTES)
        split = re.fullmatch(r"([\d.]+) *([A-Za-z]*)", limit)
        unit = split[2].upper() if split else ""
        if split is None or unit not in units:
            known = ", ".join(filter(None, units)).lower()
            raise InvalidInput(
                f"goal {text!r}: write a number with one of {known}, or a factor such as 0.8x"
            )
        factor, relative = _number(text, split[1]) * units[unit], False
    if factor <= 0:
        raise InvalidInput(f"goal {text!r}: the limit must be above 0")
    return factor, relative


def _number(text: str, words: str) -> float:
    try:
        return float(words)
    except ValueError:
        raise InvalidInput(f"goal {text!r} cannot be read; write for example {_EXAMPLES}") from None
