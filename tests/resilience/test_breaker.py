from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pybreaker
import pytest

from dspy_toolkit.events import BreakerChanged, BreakerStateLost, Event
from dspy_toolkit.resilience import Breaker, BreakerPolicy, FileStorage, ManualClock, stored_in
from dspy_toolkit.resilience.errors import CircuitOpen
from tests.resilience.conftest import kinds

POLICY = BreakerPolicy(window_calls=4, minimum_calls=4, failure_rate=0.5, open_s=10.0, probes=2)


def breaker(clock: ManualClock, **settings: Any) -> Breaker:
    return Breaker("engine", POLICY, clock, **settings)


def spend(guarded: Breaker, outcomes: str, seconds: float = 0.1) -> None:
    """Make calls in turn: `.` ends well, `x` fails, `c` is cancelled."""
    for outcome in outcomes:
        permit = guarded.admit()
        permit.cancelled() if outcome == "c" else permit.ended(outcome == "x", seconds)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ("xxx", "closed"),
        ("xx..", "open"),
        ("x...", "closed"),
        ("x...xx", "open"),
        ("cccccccc", "closed"),
        ("xccxcc.c.", "open"),
    ],
)
def test_enough_failures_among_enough_calls_open_it(
    clock: ManualClock, outcomes: str, state: str
) -> None:
    guarded = breaker(clock)
    spend(guarded, outcomes)

    assert guarded.view().state == state


def test_slow_calls_open_it_though_they_end_well(clock: ManualClock) -> None:
    policy = BreakerPolicy(window_calls=4, minimum_calls=4, slow_call_s=1.0, slow_rate=0.5)
    guarded = Breaker("engine", policy, clock)
    spend(guarded, "....", seconds=1.0)
    in_time = guarded.view().state
    spend(guarded, "..", seconds=1.1)

    assert (in_time, guarded.view().state) == ("closed", "open")


def test_open_it_refuses_and_says_for_how_long(clock: ManualClock) -> None:
    guarded = breaker(clock)
    spend(guarded, "xxxx")
    clock.advance(4.0)

    with pytest.raises(CircuitOpen, match=r"'engine' .* 6 s from now") as refusal:
        guarded.admit()

    assert refusal.value.retry_after == pytest.approx(6.0)
    assert guarded.view().tried_again_in_s == pytest.approx(6.0)


@pytest.mark.parametrize(("outcomes", "state"), [("..", "closed"), (".x", "open"), ("xx", "open")])
def test_probes_decide_whether_it_closes(clock: ManualClock, outcomes: str, state: str) -> None:
    guarded = breaker(clock)
    spend(guarded, "xxxx")
    clock.advance(10.0)
    spend(guarded, outcomes)

    assert guarded.view().state == state


def test_a_cancelled_probe_makes_place_for_another(clock: ManualClock) -> None:
    guarded = breaker(clock)
    spend(guarded, "xxxx")
    clock.advance(10.0)
    first, second = guarded.admit(), guarded.admit()
    with pytest.raises(CircuitOpen):
        guarded.check()
    first.cancelled()
    third = guarded.admit()
    second.ended(failed=False, seconds=0.1)
    third.ended(failed=False, seconds=0.1)

    assert guarded.view().state == "closed"


def test_probes_that_never_come_back_do_not_keep_it_half_open(clock: ManualClock) -> None:
    guarded = breaker(clock)
    spend(guarded, "xxxx")
    clock.advance(10.0)
    lost = guarded.admit()
    clock.advance(10.0)
    with pytest.raises(CircuitOpen):
        guarded.admit()
    lost.ended(failed=False, seconds=20.0)

    assert guarded.view().state == "open"


def test_calls_from_before_it_opened_count_for_nothing_after(clock: ManualClock) -> None:
    guarded = breaker(clock)
    old = [guarded.admit() for _ in range(4)]
    spend(guarded, "xxxx")
    clock.advance(10.0)
    probe = guarded.admit()
    for permit in old:
        permit.ended(failed=True, seconds=0.1)
    probe.ended(failed=False, seconds=0.1)

    assert guarded.view().state == "half-open"
    assert guarded.view().tally.calls == 1


def test_many_threads_at_once_get_exactly_the_probes(clock: ManualClock) -> None:
    guarded = breaker(clock)
    spend(guarded, "xxxx")
    clock.advance(10.0)
    ready = threading.Barrier(16)

    def probe(_: int) -> bool:
        ready.wait()
        try:
            guarded.admit()
        except CircuitOpen:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        let_through = sum(threads.map(probe, range(16)))

    assert let_through == POLICY.probes


def test_a_call_under_way_holds_up_nobody(clock: ManualClock) -> None:
    guarded = breaker(clock)
    under_way = guarded.admit()
    with ThreadPoolExecutor(1) as other:
        other.submit(spend, guarded, "xxxx").result(timeout=5)
    under_way.ended(failed=False, seconds=0.1)

    assert guarded.view().state == "open"


def test_a_permit_settled_twice_counts_once(clock: ManualClock) -> None:
    guarded = breaker(clock)
    permit = guarded.admit()
    permit.ended(failed=True, seconds=0.1)
    permit.ended(failed=True, seconds=0.1)
    permit.cancelled()

    assert guarded.view().tally.calls == 1


def test_changes_are_told_in_order_to_subscribers_and_listeners(
    clock: ManualClock, events: list[Event]
) -> None:
    heard: list[tuple[str, str]] = []

    class Listener(pybreaker.CircuitBreakerListener):  # type: ignore[misc]
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            heard.append((old_state.name, new_state.name))

    guarded = breaker(clock, listeners=[Listener()])
    spend(guarded, "xxxx")
    clock.advance(10.0)
    spend(guarded, "..")
    guarded.open()
    guarded.close()
    steps = ["closed", "open", "half-open", "closed", "open", "closed"]

    assert heard == list(pairwise(steps))
    assert kinds(events, BreakerChanged) == [BreakerChanged("engine", *step) for step in heard]


def test_a_subscriber_may_ask_the_breaker(clock: ManualClock) -> None:
    guarded = breaker(clock)
    seen: list[str] = []

    class Listener(pybreaker.CircuitBreakerListener):  # type: ignore[misc]
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            seen.append(guarded.view().name)

    guarded = breaker(clock, listeners=[Listener()])
    spend(guarded, "xxxx")

    assert seen == ["engine"]


def test_an_open_circuit_is_still_open_after_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    storage = stored_in(tmp_path)
    spend(breaker(clock, storage=storage("engine")), "xxxx")
    later = ManualClock(start=clock.now() + 7.0)
    again = breaker(later, storage=storage("engine"))

    assert again.view().state == "open"
    assert again.view().tried_again_in_s == pytest.approx(3.0)


def test_a_clock_set_back_keeps_it_open_no_longer_than_said(
    tmp_path: Path, clock: ManualClock
) -> None:
    storage = FileStorage(tmp_path / "engine.json")
    storage.opened_at = datetime.fromtimestamp(clock.wall() + 5000.0, UTC)
    storage.state = "open"

    assert breaker(clock, storage=storage).view().tried_again_in_s == POLICY.open_s


def test_another_process_can_open_and_close_it(
    tmp_path: Path, clock: ManualClock, events: list[Event]
) -> None:
    file = tmp_path / "engine.json"
    here = breaker(clock, storage=FileStorage(file))
    there = breaker(clock, storage=FileStorage(file))
    there.open()
    with pytest.raises(CircuitOpen):
        here.admit()
    there.close()
    here.admit().ended(failed=False, seconds=0.1)

    assert here.view().state == "closed"
    assert len(kinds(events, BreakerChanged)) == 4


@pytest.mark.parametrize("content", ["{", "[]", '{"state": "ajar", "opened_at": null}', "{}"])
def test_a_damaged_state_is_told_and_costs_no_call(
    tmp_path: Path, clock: ManualClock, events: list[Event], content: str
) -> None:
    file = tmp_path / "engine.json"
    file.write_text(content)
    guarded = breaker(clock, storage=FileStorage(file))
    spend(guarded, "xxxx")

    assert [type(event) for event in events] == [BreakerStateLost, BreakerChanged]
    assert json.loads(file.read_text())["state"] == "open"


def test_a_state_that_cannot_be_written_is_told_and_kept_in_memory(
    tmp_path: Path, clock: ManualClock, events: list[Event]
) -> None:
    (tmp_path / "in_the_way").write_text("")
    guarded = breaker(clock, storage=FileStorage(tmp_path / "in_the_way" / "engine.json"))
    spend(guarded, "xxxx")

    assert guarded.view().state == "open"
    assert kinds(events, BreakerStateLost)


def test_pybreakers_own_storage_serves_as_well(clock: ManualClock) -> None:
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    spend(breaker(clock, storage=storage), "xxxx")

    assert storage.state == "open"
    assert storage.opened_at.timestamp() == clock.wall()
