"""The watchdog's judgement, by hand and against any order of signs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.resilience import SupervisionPolicy
from dspy_toolkit.resilience.supervised.watch import (
    BETWEEN_TOKENS,
    FIRST_TOKEN,
    MEMORY,
    NO_HEARTBEAT,
    STOPPED,
    Watch,
)

POLICY = SupervisionPolicy(
    beat_s=1.0, silent_s=5.0, first_token_s=20.0, between_tokens_s=10.0, stable_s=1.0
)
START = 100.0


def watch() -> Watch:
    return Watch(POLICY, START)


def verdict(watched: Watch, now: float, **facts: object) -> str | None:
    known = {"stopped": False, "memory_bytes": 0, "most_bytes": 0, **facts}
    return watched.verdict(now, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "facts", "expected"),
    [
        (105.0, {}, None),
        (105.1, {}, NO_HEARTBEAT),
        (102.0, {"stopped": True}, None),
        (102.1, {"stopped": True}, STOPPED),
        (101.0, {"memory_bytes": 11, "most_bytes": 10}, MEMORY),
        (101.0, {"memory_bytes": 10, "most_bytes": 10}, None),
        (101.0, {"memory_bytes": 10, "most_bytes": 0}, None),
    ],
)
def test_silence_and_memory_are_judged(
    now: float, facts: dict[str, object], expected: str | None
) -> None:
    assert verdict(watch(), now, **facts) == expected


def test_a_call_without_any_progress_is_waited_for_as_long_as_a_first_token_may_take() -> None:
    watched = watch()
    watched.busy(110.0, 1)
    watched.heard(130.0)

    assert verdict(watched, 130.0) is None
    assert verdict(watched, 130.1) == FIRST_TOKEN


def test_progress_is_waited_for_as_long_as_a_further_token_may_take() -> None:
    watched = watch()
    watched.busy(110.0, 2)
    watched.counted(125.0, 7)
    watched.counted(135.0, 7)

    assert verdict(watched, 135.0) is None
    assert verdict(watched, 135.1) == BETWEEN_TOKENS

    watched.moved(135.2)

    assert verdict(watched, 135.2) is None


def test_when_nothing_is_asked_no_token_is_missed() -> None:
    watched = watch()
    watched.busy(110.0, 1)
    watched.moved(111.0)
    watched.busy(112.0, 0)
    watched.heard(500.0)

    assert verdict(watched, 500.0) is None

    watched.busy(500.0, 1)
    watched.heard(520.0)

    assert verdict(watched, 520.0) is None


def test_time_in_which_nobody_listened_is_no_silence() -> None:
    watched = watch()
    watched.busy(110.0, 1)
    watched.moved(111.0)
    watched.overslept(300.0)

    assert verdict(watched, 412.0, stopped=True) is None
    assert verdict(watched, 416.1) == NO_HEARTBEAT


signs = st.lists(st.tuples(st.sampled_from(["heard", "moved", "busy", "idle"]), st.floats(0, 4)))


@given(signs)
def test_a_process_that_gives_signs_of_life_and_of_work_in_time_is_never_replaced(
    given_signs: list[tuple[str, float]],
) -> None:
    watched = watch()
    now = last_move = START
    for sign, pause in given_signs:
        now += pause
        if now - last_move > 8.0:
            sign = "moved"
        if sign == "busy":
            watched.busy(now, 1)
        elif sign == "idle":
            watched.busy(now, 0)
        elif sign == "moved":
            watched.moved(now)
            last_move = now
        watched.heard(now)

        assert verdict(watched, now) is None
