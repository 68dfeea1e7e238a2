"""Calls that are left, engines that are closed, and a supervisor that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from dspy_toolkit.contract import ConfigurationError, TimeoutError, gives_up_at, request_to_dict
from dspy_toolkit.events import Event
from dspy_toolkit.resilience import Opening, SupervisedEngine
from dspy_toolkit.resilience.supervised.life import Life
from dspy_toolkit.resilience.supervised.wire import Frame, Link
from tests.resilience.puppet import ask
from tests.resilience.supervising import PATIENCE_S, QUICK, Start


def test_a_call_that_is_left_while_a_new_process_gets_it_is_taken_back_after_it_was_made(
    engine: SupervisedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = engine._supervisor
    order = {"by": 0, "request": request_to_dict(ask("hang")), "streamed": True}
    call = supervisor.submit(order, lambda _: None)
    leaving = threading.Thread(target=supervisor.leave, args=(call,))
    sent: list[str] = []
    taken_back = threading.Event()
    send = Link.send

    def watched(link: Link, frame: Frame | bytes) -> None:
        told = json.loads(frame) if isinstance(frame, bytes) else frame
        if "call" in told:
            leaving.start()
            # Where it can, it is through by then.
            leaving.join(0.1)
        send(link, frame)
        sent.append(next(iter(told)))
        if "cancel" in told:
            taken_back.set()

    monkeypatch.setattr(Link, "send", watched)
    os.kill(engine.process_id or 0, signal.SIGKILL)

    assert taken_back.wait(PATIENCE_S)
    leaving.join()
    assert sent == ["path", "call", "cancel"]


def test_closing_ends_the_process_and_the_calls_it_holds(start: Start) -> None:
    engine = start(first_token_s=60.0)
    process = psutil.Process(engine.process_id)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(engine.complete, ask("hang"))
        while not engine.running:
            pass
        engine.close()
        with pytest.raises(ConfigurationError, match="closed"):
            held.result(PATIENCE_S)

    assert not process.is_running()
    with pytest.raises(ConfigurationError, match="closed"):
        engine.complete(ask("hello"))


_LONE_PARENT = """
import sys
from dspy_toolkit.resilience import Opening, SupervisedEngine
engine = SupervisedEngine(Opening("tests.resilience.puppet:" + sys.argv[1]))
print(engine.process_id, file=sys.stderr, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["puppet", "never_ready"], ids=["serving", "loading"])
def test_a_child_whose_supervisor_was_killed_ends_by_itself(engine: str) -> None:
    command = [sys.executable, "-c", _LONE_PARENT, engine]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stderr is not None

        child = psutil.Process(int(parent.stderr.readline()))
        parent.kill()

    assert child.wait(PATIENCE_S) is None


def test_a_caller_who_stops_waiting_gets_its_thread_back_and_frees_the_engine(start: Start) -> None:
    engine = start(first_token_s=60.0)
    token = gives_up_at.set(time.monotonic() + 0.05)
    try:
        with pytest.raises(TimeoutError, match="nobody waits"):
            engine.complete(ask("hang"))
    finally:
        gives_up_at.reset(token)

    assert engine.running == 0


def test_an_engine_that_is_closed_while_a_new_process_loads_is_closed_there_too(
    events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening("tests.resilience.puppet:puppet")
    first, second = (SupervisedEngine(opening, QUICK, shared_as="closing") for _ in range(2))
    both = first.complete(ask("count")).text

    def started(openings: dict[int, Opening], beat_s: float) -> Life:
        life = Life(openings, beat_s)
        second.close()
        return life

    monkeypatch.setattr("dspy_toolkit.resilience.supervised.supervisor.Life", started)
    os.kill(first.process_id or 0, signal.SIGKILL)
    one = first.complete(ask("count")).text
    first.close()

    assert (both, one) == ("2 open", "1 open")
