"""The fault laboratory on a small scale; `benchmarks/fault_laboratory.py` runs the large one."""

from __future__ import annotations

import gc
import os
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

from dspy_toolkit.contract import LM15Error, ServerError
from dspy_toolkit.events import BreakerChanged, Event
from dspy_toolkit.resilience import (
    BreakerPolicy,
    EnginePolicy,
    Policy,
    RemoteEngine,
    ResilientEngine,
    RetryPolicy,
    stored_in,
)
from dspy_toolkit.resilience.errors import CircuitOpen
from tests.resilience.conftest import ask
from tests.resilience.laboratory.children import CHILD_MIXES, ChildMix, run_child
from tests.resilience.laboratory.server import FaultServer
from tests.resilience.laboratory.soak import growth, rounds
from tests.resilience.laboratory.trial import BUDGET, CALLERS, MIXES, RUNNING, Mix, Pace, run

CALLS, CHILD_CALLS = 64, 480
# Beyond what the machine itself is late: taking an answer apart and handing it over.
SLACK_S = 1.0
SMALL = Pace(token_s=0.15, deadline_s=0.8)


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_every_call_ends_once_rightly_and_in_time(mix: Mix) -> None:
    found = run(mix, CALLS, SMALL)

    assert found.wrong == []
    assert found.answers.total() + found.errors.total() == CALLS
    assert found.late_s <= found.machine_late_s + SLACK_S
    assert found.most_attempts <= BUDGET
    assert found.left_running == 0
    assert found.threads <= threading.active_count() + CALLERS + 4 * RUNNING


@pytest.mark.slow
@pytest.mark.parametrize("mix", CHILD_MIXES, ids=lambda mix: mix.name)
def test_every_call_ends_once_rightly_and_in_time_while_its_process_is_harmed(
    mix: ChildMix,
) -> None:
    found = run_child(mix, CHILD_CALLS, every=CHILD_CALLS // 2)

    assert found.wrong == []
    assert found.answers.total() + found.errors.total() == CHILD_CALLS
    assert found.late_s <= found.machine_late_s + SLACK_S
    assert found.most_attempts <= BUDGET
    assert found.left_running == 0
    assert found.events["ChildEnded"] >= 1


def test_a_server_whose_generator_is_dead_still_says_it_is_healthy() -> None:
    with FaultServer({"dead": 1}) as server:
        health = f"http://127.0.0.1:{server.port}/health"
        with urllib.request.urlopen(health, timeout=5) as reply:
            assert reply.read() == b"ok"


def test_a_failing_endpoint_sees_exactly_the_probes_that_are_allowed(events: list[Event]) -> None:
    opening, probes = 10, 3
    breaker = BreakerPolicy(window_calls=opening, minimum_calls=opening, open_s=0.05, probes=probes)
    policy = EnginePolicy(breaker=breaker, retry=RetryPolicy(attempts=1))
    with FaultServer({"server_error": 1}) as server:
        remote = RemoteEngine(server.url, "lab")
        engine = ResilientEngine(Policy("a", {"a": policy}), {"a": remote})
        for _ in range(opening):
            with pytest.raises(ServerError):
                engine.complete(ask())

        def hammer(_: int) -> None:
            for _ in range(300):
                with pytest.raises(LM15Error):
                    engine.complete(ask())

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(hammer, range(8)))
        eras = sum(isinstance(e, BreakerChanged) and e.after == "half-open" for e in events)
        probing = engine.breakers["a"].view()
        engine.close()
    unfinished = probing.tally.calls if probing.state == "half-open" else probes

    assert eras >= 1
    assert server.requests.total() == opening + (eras - 1) * probes + unfinished


def test_an_endpoint_that_recovers_is_used_again(events: list[Event]) -> None:
    breaker = BreakerPolicy(window_calls=4, minimum_calls=4, open_s=0.02, probes=2)
    policy = EnginePolicy(breaker=breaker, retry=RetryPolicy(attempts=1))
    with FaultServer({"server_error": 1}) as server:
        engine = ResilientEngine(Policy("a", {"a": policy}), {"a": RemoteEngine(server.url, "lab")})
        for _ in range(4):
            with pytest.raises(ServerError):
                engine.complete(ask())
        server.behave({"ok": 1})
        answers = 0
        while answers < 4:
            try:
                engine.complete(ask())
            except CircuitOpen:
                threading.Event().wait(0.002)
            else:
                answers += 1
        engine.close()

    assert [e.after for e in events if isinstance(e, BreakerChanged)] == [
        "open",
        "half-open",
        "closed",
    ]


def test_an_open_circuit_spares_the_endpoint_after_a_restart(tmp_path: Path) -> None:
    breaker = BreakerPolicy(window_calls=4, minimum_calls=4, open_s=60.0)
    policy = Policy("a", {"a": EnginePolicy(breaker=breaker, retry=RetryPolicy(attempts=1))})
    with FaultServer({"server_error": 1}) as server:
        for kind in (ServerError, CircuitOpen):
            engine = ResilientEngine(
                policy, {"a": RemoteEngine(server.url, "lab")}, storage=stored_in(tmp_path)
            )
            for _ in range(4):
                with pytest.raises(kind):
                    engine.complete(ask())
            engine.close()

    assert server.requests.total() == 4


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts file handles by /proc")
def test_faults_leave_no_threads_and_no_file_handles_behind() -> None:
    mix = next(mix for mix in MIXES if mix.name == "everything at once")
    run(mix, CALLS // 3, SMALL)
    gc.collect()
    handles, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for seed in (1, 2):
        run(mix, CALLS // 3, SMALL, seed)
    gc.collect()

    assert len(os.listdir("/proc/self/fd")) <= handles + 4
    assert threading.active_count() <= threads + RUNNING


@pytest.mark.slow
def test_rounds_of_faults_make_nothing_grow() -> None:
    seen = list(islice(rounds(60), 9))

    assert sum(each.broken for each in seen) == 0
    assert sum(each.replaced for each in seen) >= 3
    # A kind of failure that is first seen late is new series; one for each call would be hundreds.
    assert growth(seen, lambda each: each.series) <= 8
    assert growth(seen, lambda each: each.handles) <= 6
    assert growth(seen, lambda each: each.threads) <= RUNNING
    assert growth(seen, lambda each: each.memory_bytes) <= 16 << 20
