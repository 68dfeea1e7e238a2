"""Many calls through an engine whose process is killed, stopped or starved again and again."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass

import psutil

from dspy_toolkit.contract import Request, Response, StreamEvent
from dspy_toolkit.resilience import (
    Opening,
    ResilientEngine,
    SupervisedEngine,
    SupervisionPolicy,
)
from tests.resilience.laboratory.trial import Findings, Pace, judge, left_running, policy, send

SUPERVISION = SupervisionPolicy(
    beat_s=0.1,
    silent_s=5.0,
    first_token_s=10.0,
    between_tokens_s=10.0,
    first_wait_s=0.01,
    max_wait_s=0.02,
    stable_s=0.2,
    crashes=1_000_000,
)
CHILD_PACE = Pace(token_s=1.0, deadline_s=4.0)


@dataclass(frozen=True)
class ChildMix:
    """What is done to the process, by its id."""

    name: str
    harm: Callable[[int], None]


def _kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)


def _stop(process: int) -> None:
    os.kill(process, signal.SIGSTOP)


def _starve(process: int) -> None:
    """Let it have no more memory than it holds."""
    found = psutil.Process(process)
    if hasattr(found, "rlimit"):
        found.rlimit(psutil.RLIMIT_AS, (found.memory_info().vms, found.memory_info().vms))
    else:
        # Elsewhere than on Linux no process can be starved from outside.
        found.kill()


CHILD_MIXES = (
    ChildMix("child killed", _kill),
    ChildMix("child stopped", _stop),
    ChildMix("child starved of memory", _starve),
)


def run_child(mix: ChildMix, calls: int, every: int, pace: Pace = CHILD_PACE) -> Findings:
    """Send calls; at every so many attempts the process is harmed."""
    opening = Opening("tests.resilience.laboratory.words:words")
    child = SupervisedEngine(opening, SUPERVISION)
    harmed = Harmed(child, mix.harm, every)
    watched, plain = (
        ResilientEngine(
            policy(["primary"], pace, on_tokens), {"primary": harmed}, chance=random.Random(0)
        )
        for on_tokens in (True, False)
    )
    found, outcomes = send(mix.name, watched, plain, calls)
    judge(found, outcomes, pace, [harmed.asked])
    found.left_running = left_running(watched) + left_running(plain)
    child.close()
    return found


class Harmed:
    """Counts attempts by call, and harms the process at some of them. Its own twin, too."""

    supports_function_calling = False

    def __init__(self, child: SupervisedEngine, harm: Callable[[int], None], every: int) -> None:
        self.asked: Counter[str] = Counter()
        self._child = child
        self.harm = harm
        self._every = every
        self._due = every // 2
        self._lock = threading.Lock()

    @property
    def async_twin(self) -> HarmedTwin:
        return HarmedTwin(self, self._child)

    def complete(self, request: Request) -> Response:
        self.count(request)
        return self._child.complete(request)

    def stream(self, request: Request) -> Generator[StreamEvent, None, None]:
        self.count(request)
        yield from self._child.stream(request)

    def close(self) -> None:
        pass

    def rearm(self) -> None:
        """Begin to count anew."""
        self._due = self._every // 2

    def count(self, request: Request) -> None:
        with self._lock:
            self.asked[str(request.messages[-1].text)] += 1
            process = self._child.process_id
            if self.asked.total() < self._due or process is None:
                return
            self._due = self.asked.total() + self._every
            try:
                self.harm(process)
            except (psutil.Error, ProcessLookupError):
                # It ended by itself in this moment.
                return


class HarmedTwin:
    def __init__(self, harmed: Harmed, child: SupervisedEngine) -> None:
        self._harmed = harmed
        self._twin = child.async_twin

    async def complete(self, request: Request) -> Response:
        self._harmed.count(request)
        return await self._twin.complete(request)

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        self._harmed.count(request)
        async for event in self._twin.stream(request):
            yield event

    async def aclose(self) -> None:
        pass
