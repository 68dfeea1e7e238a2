from __future__ import annotations

import pytest

from dspy_toolkit.compression.goals import parse_goal
from dspy_toolkit.compression.points import Point
from dspy_toolkit.errors import InvalidInput

ORIGINAL = Point("original", "", None, 4_000_000, 8_000_000, 2_000_000, score=0.9,
                 latency_p50_s=0.2, latency_p95_s=0.5)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("memory<=2GB", 2e9),
        ("memory <= 1.5 GiB", 1.5 * 2**30),
        ("size<=0.5x", 2_000_000),
        ("size<=3MB", 3e6),
        ("score>=0.85", 0.85),
        ("score>=baseline", 0.9),
        ("score>=baseline-0.02", 0.88),
        ("score >= baseline + 0.05", 0.95),
        ("latency p50<=0.8x", 0.16),
        ("latency p95<=400ms", 0.4),
        ("latency<=1s", 1.0),
        ("parameters<=1.5M", 1.5e6),
    ],
)
def test_goals_are_read(text: str, bound: float) -> None:
    assert parse_goal(text).bound(ORIGINAL) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("small please", "cannot be read; write for example"),
        ("memory>=2GB", "bounded with <="),
        ("score<=0.9", "bounded with >="),
        ("score>=90", "between 0 and 1"),
        ("memory<=2 apples", "write a number with one of kb, mb"),
        ("sizes<=2MB", "did you mean 'size'"),
        ("memory p50<=2GB", "only latency has a percentile"),
        ("size<=0x", "must be above 0"),
        ("latency p50<=twox", "cannot be read"),
    ],
)
def test_what_is_no_goal_is_told(text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        parse_goal(text)


def test_a_goal_holds_up_to_its_bound_and_says_by_how_much_it_is_missed() -> None:
    small = Point("small", "", None, 2_000_000, 8_000_000, 2_000_000, score=0.88)

    assert parse_goal("size<=0.5x").holds(small, ORIGINAL)
    assert not parse_goal("size<=0.4x").holds(small, ORIGINAL)
    assert parse_goal("size<=0.4x").miss(small, ORIGINAL) == pytest.approx(0.25)
    assert parse_goal("score>=baseline-0.02").holds(small, ORIGINAL)
    assert parse_goal("score>=baseline").miss(small, ORIGINAL) == pytest.approx(0.02 / 0.9)


def test_what_was_not_measured_holds_no_goal() -> None:
    unknown = Point("unknown", "", None, 1, 1, 1)

    assert not parse_goal("latency p50<=9x").holds(unknown, ORIGINAL)
    assert not parse_goal("score>=0").holds(unknown, ORIGINAL)
