"""Counts of calls, and calls that are stopped by them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from dspy import lm15

from dspy_toolkit.errors import EngineError
from dspy_toolkit.programs.calls import Calls, CallTally, Stopped, counted
from tests.programs.tasks import scripted_lm


def test_a_tally_counts_every_call_of_many_threads() -> None:
    lm = scripted_lm(lambda request: "yes")
    tally = CallTally()

    def ask(_: int) -> None:
        with counted(tally):
            lm("hello")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(200)))

    assert tally.calls == Calls(made=200, cached=0)


def test_a_stopped_tally_lets_no_call_through_and_keeps_the_first_reason() -> None:
    lm = scripted_lm(lambda request: "yes")
    tally = CallTally()
    tally.stop(EngineError("first"))
    tally.stop(EngineError("second"))

    with counted(tally), pytest.raises(Stopped, match="first"):
        lm("hello")

    assert lm.engine.requests == []
    assert tally.calls == Calls()


def test_a_call_that_breaks_because_all_was_stopped_is_not_taken_for_a_failure() -> None:
    tally = CallTally()

    def stop_and_fail(request: str) -> str:
        tally.stop(EngineError("enough"))
        raise lm15.ServerError("closed")

    with counted(tally), pytest.raises(Stopped, match="enough"):
        scripted_lm(stop_and_fail)("hello")


def test_draining_waits_for_calls_in_flight() -> None:
    tally = CallTally()
    gate = threading.Event()

    def wait(request: str) -> str:
        gate.wait(20)
        return "yes"

    def ask() -> None:
        with counted(tally):
            scripted_lm(wait)("hello")

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(ask)
        tally.drain(0.0)
        gate.set()
        call.result()
        tally.drain(20)

    assert tally.calls == Calls(made=1)
