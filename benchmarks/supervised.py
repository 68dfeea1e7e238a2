"""What a process of its own costs, and how soon it is back after a kill.

    python benchmarks/supervised.py [--calls 500] [--rounds 5]

Calls of an engine that does nothing, in this process and in a child; calls of the embedded model
from 16 threads, the same; and kill -9 of the child with 32 callers of the embedded model in flight:
each must be answered, as it was before, and the first of them within 2 s beyond the time that
loading the model takes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from dspy_toolkit.contract import Config, Engine, Message, Request
from dspy_toolkit.engine import open_engine
from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.events import ChildEnded, ChildStarted, Event, ModelLoaded, subscribed
from dspy_toolkit.programs.supervised import supervised_engine
from dspy_toolkit.resilience import Opening, SupervisedEngine

CALLERS = 32
BAR_S = 2.0
PATIENCE_S = 120.0
HELLO = Request(model="m", messages=(Message.user("hello"),))


def question(number: int, max_tokens: int) -> Request:
    return Request(
        model="m",
        messages=(Message.user(f"Ticket {number}: the parcel never came. Who must act?"),),
        config=Config(max_tokens=max_tokens),
    )


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
    requests = [question(number, max_tokens=32) for number in range(96)]
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
    """Callers of the embedded model whose process is killed: who is answered, rightly, and when."""
    requests = [question(number, max_tokens=64) for number in range(CALLERS)]
    heard: list[Event] = []
    engine = supervised_engine("embedded")
    with subscribed(heard.append), ThreadPoolExecutor(CALLERS) as pool:
        right = [each.text for each in pool.map(engine.complete, requests)]

        def call(request: Request) -> tuple[str, float]:
            return engine.complete(request).text, time.monotonic()

        asked = [pool.submit(call, request) for request in requests]
        while engine.running < CALLERS:
            time.sleep(0)
        killed = time.monotonic()
        os.kill(engine.process_id or 0, signal.SIGKILL)
        answers = [each.result(PATIENCE_S) for each in asked]
    engine.close()
    (start,) = [each.seconds for each in heard if isinstance(each, ChildStarted)]
    (load,) = [each.seconds for each in heard if isinstance(each, ModelLoaded)]
    (lost,) = [each for each in heard if isinstance(each, ChildEnded)]
    first, last = (pick(when for _, when in answers) - killed for pick in (min, max))
    return {
        "what": f"kill -9 under {CALLERS} callers of the embedded model, s",
        "calls the process held": lost.replayed + lost.failed,
        "answered as before": sum(
            text == wanted for (text, _), wanted in zip(answers, right, strict=True)
        ),
        "start, load among it": round(start, 2),
        "model load": round(load, 2),
        "first answer after": round(first, 2),
        "last answer after": round(last, 2),
        "first answer beyond load": round(first - load, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    rows = [a_call(chosen.calls, chosen.rounds), the_model(chosen.rounds), a_kill()]
    sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    kill = rows[-1]
    kept = kill["first answer beyond load"] <= BAR_S and kill["answered as before"] == CALLERS
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
