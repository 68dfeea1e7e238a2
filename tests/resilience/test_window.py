from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.resilience.window import SLICES, CallWindow, Tally, TimeWindow

calls = st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans(), st.booleans()), max_size=60)


def counted(kept: list[tuple[float, bool, bool]]) -> Tally:
    return Tally(len(kept), sum(failed for _, failed, _ in kept), sum(slow for *_, slow in kept))


@given(calls, st.integers(1, 20))
def test_a_call_window_counts_the_last_calls(
    steps: list[tuple[float, bool, bool]], size: int
) -> None:
    window = CallWindow(size)
    for _, failed, slow in steps:
        window.add(0.0, failed, slow)

    assert window.tally(0.0) == counted(steps[-size:])


@given(calls, st.floats(0.5, 10.0), st.floats(0.0, 12.0))
def test_a_time_window_counts_the_calls_of_the_last_ten_slices(
    steps: list[tuple[float, bool, bool]], seconds: float, later: float
) -> None:
    window = TimeWindow(seconds)
    ended: list[tuple[float, bool, bool]] = []
    now = 0.0
    for pause, failed, slow in steps:
        now += pause
        window.add(now, failed, slow)
        ended.append((now, failed, slow))
    now += later

    def slice_of(when: float) -> int:
        return math.floor(when / (seconds / SLICES))

    assert window.tally(now) == counted(
        [call for call in ended if slice_of(call[0]) > slice_of(now) - SLICES]
    )


def test_rates_of_no_calls_are_zero() -> None:
    assert (Tally().failure_rate, Tally().slow_rate) == (0.0, 0.0)
    assert (Tally(4, 1, 2).failure_rate, Tally(4, 1, 2).slow_rate) == (0.25, 0.5)
