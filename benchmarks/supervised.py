"""What a process of its own costs, and how soon it is back after a kill.

    python benchmarks/supervised.py [--calls 2000] [--rounds 5] [--json]

Calls of an engine that does nothing, in this process and in a child; calls of the embedded model
from 16 threads, the same; and, with 32 callers in flight, kill -9 of the child: how long until the
next answer, beside how long the first start took, whose excess must stay within 2 s.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from dspy_toolkit.contract import Config, Engine, Message, Request
from dspy_toolkit.engine import open_engine
from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.events import ChildStarted, Event, subscribed
from dspy_toolkit.programs.supervised import supervised_engine
from dspy_toolkit.resilience import Opening, SupervisedEngine
from tests.resilience.puppet import ask

CALLERS = 32
BAR_S = 2.0
HELLO = Request(model="m", messages=(Message.user("hello"),))


def best_us(calls: int, rounds: int, action: Callable[[], object]) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(calls):
            action()
        times.append((time.perf_counter() - started) / calls * 1e6)
    return min(times)


def a_call(calls: int, rounds: int) -> dict[str, Any]:
    here = ScriptedEngine(lambda text: "ok", context=500)
    there = SupervisedEngine(Opening("benchmarks.supervised:instant"))
    bare = best_us(calls, rounds, lambda: here.complete(HELLO))
    child = best_us(calls, rounds, lambda: there.complete(HELLO))
    there.close()
    return {"what": "a call, us", "in this process": round(bare, 1), "in a child": round(child, 1)}


def instant() -> ScriptedEngine:
    """What the child opens."""
    return ScriptedEngine(lambda text: "ok", context=500)


def the_model(rounds: int) -> dict[str, Any]:
    requests = [
        Request(
            model="m",
            messages=(Message.user(f"Ticket {number}: the parcel never came. Who must act?"),),
            config=Config(max_tokens=32),
        )
        for number in range(96)
    ]
    rates: list[list[float]] = [[], []]
    engines: list[Engine] = [open_engine("embedded"), supervised_engine("embedded")]
    with ThreadPoolExecutor(16) as pool:
        for number in range(rounds + 1):
            for engine, seen in zip(engines, rates, strict=True):
                started = time.perf_counter()
                list(pool.map(engine.complete, requests))
                if number:
                    seen.append(len(requests) / (time.perf_counter() - started))
    for engine in engines:
        engine.close()
    here, there = (max(seen) for seen in rates)
    return {
        "what": "embedded model, 16 threads, calls/s",
        "in this process": round(here, 1),
        "in a child": round(there, 1),
    }


def a_kill() -> dict[str, Any]:
    """Time from a kill to the next answer, and from the start of a process to its readiness."""
    starts: list[float] = []

    def hear(event: Event) -> None:
        if isinstance(event, ChildStarted):
            starts.append(event.seconds)

    with subscribed(hear):
        engine = SupervisedEngine(Opening("tests.resilience.puppet:puppet"))
        together = threading.Barrier(CALLERS + 1)

        def call(number: int) -> float:
            together.wait()
            engine.complete(ask(f"pause 0.2{number}"))
            return time.monotonic()

        with ThreadPoolExecutor(CALLERS) as pool:
            ends = [pool.submit(call, number) for number in range(CALLERS)]
            together.wait()
            killed = time.monotonic()
            os.kill(engine.process_id or 0, signal.SIGKILL)
            first = min(end.result() for end in ends) - killed
            last = max(end.result() for end in ends) - killed
        engine.close()
    return {
        "what": f"kill -9 under {CALLERS} callers, s",
        "start": round(starts[0], 2),
        "first answer after": round(first, 2),
        "last answer after": round(last, 2),
        "beyond a start": round(first - starts[1], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    rows = [a_call(chosen.calls, chosen.rounds), the_model(chosen.rounds), a_kill()]
    sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    return 0 if rows[-1]["beyond a start"] <= BAR_S else 1


if __name__ == "__main__":
    sys.exit(main())
