from __future__ import annotations

import pytest

from dspy_toolkit.contract import ServerError, StreamEvent, TransportError
from dspy_toolkit.resilience import FaultyEngine, FixedAnswer, ManualClock, WouldHang
from dspy_toolkit.resilience.faulty import GARBAGE
from tests.resilience.conftest import Way, ask, text_of


@pytest.fixture
def faulty(clock: ManualClock) -> FaultyEngine:
    return FaultyEngine(FixedAnswer("good"), clock)


def test_without_commands_it_is_the_engine_within(faulty: FaultyEngine, way: Way) -> None:
    heard: list[StreamEvent] = []
    way.stream(faulty, ask(), heard)

    assert way.complete(faulty, ask()) == FixedAnswer("good").complete(ask())
    assert heard == list(FixedAnswer("good").stream(ask()))
    assert faulty.supports_function_calling is False
    assert faulty.calls == 2


def test_commands_hold_for_the_next_calls_in_turn(
    faulty: FaultyEngine, clock: ManualClock, way: Way
) -> None:
    faulty.fail_next(ServerError("down"), times=2)
    faulty.slow_next(5.0)
    faulty.garbage_next()
    started = clock.now()
    for _ in range(2):
        with pytest.raises(ServerError, match="down"):
            way.complete(faulty, ask())
    slow = way.complete(faulty, ask()).text

    assert slow == "good"
    assert clock.now() - started == 5.0
    assert way.complete(faulty, ask()).text == GARBAGE
    assert way.complete(faulty, ask()).text == "good"


def test_a_stream_is_cut_after_so_many_events(faulty: FaultyEngine, way: Way) -> None:
    faulty.cut_stream_after(2)
    heard: list[StreamEvent] = []
    with pytest.raises(TransportError):
        way.stream(faulty, ask(), heard)

    assert [event.type for event in heard] == ["start", "delta"]


def test_a_stream_of_garbage_has_the_shape_of_the_real_one(faulty: FaultyEngine, way: Way) -> None:
    faulty.garbage_next()
    heard: list[StreamEvent] = []
    way.stream(faulty, ask(), heard)

    assert [event.type for event in heard] == ["start", "delta", "end"]
    assert text_of(heard) == GARBAGE


def test_a_stall_without_a_limit_is_told_instead_of_hanging(faulty: FaultyEngine, way: Way) -> None:
    faulty.stall()

    with pytest.raises(WouldHang):
        way.complete(faulty, ask())


def test_healed_it_has_no_faults_left(faulty: FaultyEngine, way: Way) -> None:
    faulty.fail_next(ServerError("down"), times=5)
    faulty.heal()

    assert way.complete(faulty, ask()).text == "good"


def test_time_goes_forward_only(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1.0)
