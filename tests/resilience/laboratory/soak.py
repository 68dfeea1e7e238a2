"""Rounds of faults for as long as one likes, and what grows meanwhile."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from statistics import median

import psutil

from dspy_toolkit.contract import Engine
from dspy_toolkit.events import subscribed
from dspy_toolkit.monitoring import Health, Metrics
from dspy_toolkit.resilience import Opening, RemoteEngine, ResilientEngine, SupervisedEngine
from tests.resilience.laboratory.children import (
    CHILD_MIXES,
    CHILD_PACE,
    SUPERVISION,
    Harmed,
)
from tests.resilience.laboratory.server import FaultServer
from tests.resilience.laboratory.trial import BUDGET, MIXES, judge, left_running, policy, send

CALLS = 160
SERVER = next(mix for mix in MIXES if mix.name == "everything at once")


@dataclass(frozen=True)
class Round:
    """What one round left behind.

    Attributes:
        broken: promises that were not kept.
        memory_bytes: resident, of this process.
        child_bytes: the same of the engine's process of now; 0 where there is none.
        series: of all metrics.
    """

    number: int
    seconds: float
    answers: int
    errors: int
    replaced: int
    broken: int
    memory_bytes: int
    child_bytes: int
    threads: int
    handles: int
    series: int


def rounds(calls: int = CALLS) -> Iterator[Round]:
    """Send calls, round by round, through a child that is harmed in each, with a misbehaving
    server behind it, under metrics and health."""
    metrics = Metrics()
    with ExitStack() as stack:
        server = stack.enter_context(FaultServer(SERVER.primary, 0))
        child = SupervisedEngine(Opening("tests.resilience.laboratory.words:words"), SUPERVISION)
        stack.callback(child.close)
        remote = RemoteEngine(server.url, "lab", read_s=4 * CHILD_PACE.token_s, connect_s=1.0)
        stack.callback(remote.close)
        harmed = Harmed(child, CHILD_MIXES[0].harm, calls)
        engines: dict[str, Engine] = {"child": harmed, "remote": remote}
        watched, plain = (
            ResilientEngine(
                policy(list(engines), CHILD_PACE, on_tokens), engines, chance=random.Random(0)
            )
            for on_tokens in (True, False)
        )
        health = Health({"child": watched}, patience_s=1.0)
        for each in (metrics, health):
            stack.enter_context(subscribed(each))
        for source in (watched.samples, child.samples):
            stack.enter_context(metrics.watching(source))
        for number in count():
            harmed.harm = CHILD_MIXES[number % len(CHILD_MIXES)].harm
            server.requests.clear()
            harmed.asked.clear()
            harmed.rearm()
            found, outcomes = send("soak", watched, plain, calls)
            judge(found, outcomes, CHILD_PACE, [server.requests, harmed.asked])
            stuck = left_running(watched) + left_running(plain)
            health.check("deep")
            metrics.exposition()
            gc.collect()
            yield Round(
                number=number,
                seconds=round(found.seconds, 2),
                answers=found.answers.total(),
                errors=found.errors.total(),
                replaced=found.events["ChildEnded"],
                broken=len(found.wrong) + stuck + (found.most_attempts > BUDGET),
                memory_bytes=psutil.Process().memory_info().rss,
                child_bytes=_resident(child.process_id),
                threads=threading.active_count(),
                handles=psutil.Process().num_fds(),
                series=metrics.series,
            )


def growth(seen: list[Round], read: Callable[[Round], float]) -> float:
    """How much larger a number is in the last third than in the second: the first warms up."""
    third = max(len(seen) // 3, 1)
    return median(map(read, seen[-third:])) - median(map(read, seen[third : 2 * third]))


def soak(seconds: float, every_s: float) -> Iterator[Round]:
    """Rounds for so long, one every so often."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    for each in rounds():
        yield each
        left_s = end - time.monotonic()
        if left_s <= 0:
            return
        pause.wait(min(max(every_s - each.seconds, 0.0), left_s))


def _resident(process: int | None) -> int:
    if process is None or not os.path.exists("/proc"):
        return 0
    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.Error:
        return 0
