"""Many calls through one mix of faults, and what became of each."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise

from dspy_toolkit.contract import LM15Error, Message, Request, StreamEndEvent
from dspy_toolkit.events import Event, subscribed
from dspy_toolkit.resilience import (
    BreakerPolicy,
    BulkheadPolicy,
    EnginePolicy,
    Policy,
    RemoteEngine,
    ResilientEngine,
    RetryPolicy,
    TimeoutPolicy,
    answered_by,
)
from tests.resilience.laboratory.server import WORDS, FaultServer

CALLERS = 16
BUDGET = 4
RUNNING = 32


# Engines, and whether their answers are streamed.
Ways = list[tuple[ResilientEngine, bool]]


@dataclass(frozen=True)
class Mix:
    """Weights of the primary endpoint's behaviours, and of its fallback's if it has one."""

    name: str
    primary: Mapping[str, float]
    fallback: Mapping[str, float] | None = None


MIXES = (
    Mix("all is well", {"ok": 1}),
    Mix("rate limits", {"ok": 6, "rate_limit": 4}),
    Mix("server errors", {"ok": 6, "server_error": 4}),
    Mix("stalls after the headers", {"ok": 8, "stall": 2}),
    Mix("cut in mid-answer", {"ok": 7, "cut": 2, "hang_up": 1}),
    Mix("bad JSON", {"ok": 7, "bad_json": 2, "wrong_shape": 1}),
    Mix("slow drip", {"ok": 5, "drip": 5}),
    Mix("healthy but dead", {"dead": 1}, {"ok": 1}),
    Mix(
        "everything at once",
        {
            "ok": 5,
            "rate_limit": 1,
            "server_error": 1,
            "stall": 1,
            "cut": 1,
            "hang_up": 1,
            "bad_json": 1,
            "wrong_shape": 1,
            "drip": 1,
            "dead": 1,
        },
        {"ok": 8, "server_error": 1, "cut": 1},
    ),
)


@dataclass
class Outcome:
    """How one call ended."""

    call: str
    seconds: float
    error: str | None = None
    by: str | None = None
    wrong: str | None = None


@dataclass
class Findings:
    """What a trial showed.

    Attributes:
        wrong: broken promises, by call; none in a sound policy.
        late_s: the longest time beyond the deadline.
        machine_late_s: how late the machine itself woke a thread and a coroutine that did nothing
            but wait meanwhile: no call can be expected to be earlier.
        most_attempts: requests that the endpoints saw for one call.
        left_running: places still taken when every call had ended and every server was gone.
        threads: most of the process's threads at once.
    """

    mix: str
    calls: int
    seconds: float
    answers: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    late_s: float = 0.0
    machine_late_s: float = 0.0
    most_attempts: int = 0
    left_running: int = 0
    threads: int = 0


@dataclass(frozen=True)
class Pace:
    """The trial's times in seconds; all others follow from them."""

    token_s: float = 0.15
    deadline_s: float = 0.8


class Lateness:
    """How late the machine wakes what waits, while the block runs."""

    TICK_S = 0.01

    def __init__(self) -> None:
        self.most_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Lateness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def watch_loop(self) -> None:
        """The same for the running event loop."""
        while True:
            due = time.monotonic() + self.TICK_S
            await asyncio.sleep(self.TICK_S)
            self.most_s = max(self.most_s, time.monotonic() - due)

    def _watch(self) -> None:
        while True:
            due = time.monotonic() + self.TICK_S
            if self._over.wait(self.TICK_S):
                return
            self.most_s = max(self.most_s, time.monotonic() - due)


def run(mix: Mix, calls: int, pace: Pace, seed: int = 0) -> Findings:
    """Send calls through a mix: from threads and coroutines, whole and streamed, with limits on
    tokens and on the whole."""
    with ExitStack() as stack:
        primary = stack.enter_context(FaultServer(mix.primary, seed))
        servers = [primary]
        if mix.fallback is not None:
            servers.append(stack.enter_context(FaultServer(mix.fallback, seed + 1)))
        watched = _engine(servers, pace, seed, on_tokens=True)
        plain = _engine(servers, pace, seed, on_tokens=False)
        found, outcomes = send(mix.name, watched, plain, calls)
        watched.close()
        plain.close()
    judge(found, outcomes, pace, [server.requests for server in servers])
    found.left_running = left_running(watched) + left_running(plain)
    return found


def send(
    name: str, watched: ResilientEngine, plain: ResilientEngine, calls: int
) -> tuple[Findings, list[Outcome]]:
    """Send calls, half of them from threads, half from coroutines, and see how each ends.

    Args:
        watched: has limits on tokens. plain: has one on the whole.
    """
    outcomes: list[Outcome] = []
    events: Counter[str] = Counter()
    threads = 0

    def hear(event: Event) -> None:
        nonlocal threads
        events[type(event).__name__] += 1
        threads = max(threads, threading.active_count())

    ways: Ways = [(watched, False), (watched, True), (plain, False)]
    started = time.monotonic()
    half = calls // 2
    with subscribed(hear), Lateness() as lateness:
        with ThreadPoolExecutor(CALLERS) as pool:
            outcomes += pool.map(lambda number: _ask(ways, number), range(half))
        outcomes += asyncio.run(_ask_all(ways, range(half, calls), lateness))
    found = Findings(name, calls, time.monotonic() - started, events=events, threads=threads)
    found.machine_late_s = lateness.most_s
    return found, outcomes


def policy(names: list[str], pace: Pace, on_tokens: bool) -> Policy:
    """The policy of a trial over engines of these names."""
    timeouts = TimeoutPolicy(
        first_token_s=pace.token_s if on_tokens else None,
        between_tokens_s=pace.token_s if on_tokens else None,
        whole_s=2 * pace.token_s,
    )
    following = dict(pairwise(names))
    return Policy(
        primary=names[0],
        deadline_s=pace.deadline_s,
        attempts=BUDGET,
        engines={
            name: EnginePolicy(
                fallback=following.get(name),
                reserve_s=pace.deadline_s / 4 if name != names[0] else 0.0,
                timeouts=timeouts,
                bulkhead=BulkheadPolicy(max_concurrent=RUNNING),
                breaker=BreakerPolicy(
                    window_calls=40, minimum_calls=20, failure_rate=0.7, open_s=0.2, probes=2
                ),
                retry=RetryPolicy(attempts=3, first_wait_s=0.002, max_wait_s=0.02),
            )
            for name in names
        },
    )


def question(call: str) -> Request:
    """The request that a call sends."""
    return Request(model="lab", messages=(Message.user(call),))


def _engine(servers: list[FaultServer], pace: Pace, seed: int, on_tokens: bool) -> ResilientEngine:
    names = ["primary", "fallback"][: len(servers)]
    remotes = [
        RemoteEngine(server.url, "lab", read_s=4 * pace.token_s, connect_s=1.0)
        for server in servers
    ]
    return ResilientEngine(
        policy(names, pace, on_tokens),
        dict(zip(names, remotes, strict=True)),
        chance=random.Random(seed),
    )


def _ask(ways: Ways, number: int) -> Outcome:
    engine, streamed = ways[number % len(ways)]
    call = str(number)
    reader = _Reader(call)
    with reader:
        if streamed:
            for event in engine.stream(question(call)):
                reader.hear(event)
        else:
            reader.take(engine.complete(question(call)))
    return reader.outcome


async def _ask_all(ways: Ways, numbers: range, lateness: Lateness) -> list[Outcome]:
    places = asyncio.Semaphore(CALLERS)
    watching = asyncio.ensure_future(lateness.watch_loop())

    async def one(number: int) -> Outcome:
        engine, streamed = ways[number % len(ways)]
        async with places:
            reader = _Reader(str(number))
            with reader:
                if streamed:
                    async for event in engine.async_twin.stream(question(str(number))):
                        reader.hear(event)
                else:
                    reader.take(await engine.async_twin.complete(question(str(number))))
            return reader.outcome

    outcomes = await asyncio.gather(*(one(number) for number in numbers))
    watching.cancel()
    for engine, _ in ways[1:]:
        await engine.async_twin.aclose()
    return outcomes


class _Reader:
    """Takes one call's answer and checks it."""

    def __init__(self, call: str) -> None:
        self._expected = "".join(WORDS) + call
        self._text = ""
        self._ends = 0
        self.outcome = Outcome(call, 0.0)

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        outcome = self.outcome
        outcome.seconds = time.monotonic() - self._started
        if error is None:
            if self._text != self._expected or self._ends != 1:
                outcome.wrong = f"answered {self._text!r} with {self._ends} ends"
            return False
        outcome.error = type(error).__name__
        if not isinstance(error, LM15Error):
            outcome.wrong = f"raised {error!r}"
        if not self._expected.startswith(self._text) or self._ends:
            outcome.wrong = f"gave {self._text!r} before it failed"
        return isinstance(error, Exception)

    def take(self, response: object) -> None:
        """A whole answer."""
        self._text, self._ends = str(getattr(response, "text", None)), 1
        self.outcome.by = answered_by(response)

    def hear(self, event: object) -> None:
        """One event of a stream."""
        delta = getattr(event, "delta", None)
        self._text += getattr(delta, "text", "")
        if isinstance(event, StreamEndEvent):
            self._ends += 1
            self.outcome.by = (event.provider_data or {}).get("answered_by")


def judge(
    found: Findings, outcomes: list[Outcome], pace: Pace, requests: list[Counter[str]]
) -> None:
    """Hold the outcomes against what was promised.

    Args:
        requests: how often each engine was asked by each call.
    """
    ended = Counter(outcome.call for outcome in outcomes)
    for number in range(found.calls):
        if ended[str(number)] != 1:
            found.wrong.append(f"call {number} ended {ended[str(number)]} times")
    for outcome in outcomes:
        if outcome.wrong:
            found.wrong.append(f"call {outcome.call} {outcome.wrong}")
        found.late_s = max(found.late_s, outcome.seconds - pace.deadline_s)
        attempts = sum(each[outcome.call] for each in requests)
        found.most_attempts = max(found.most_attempts, attempts)
        if outcome.error is None:
            found.answers[outcome.by or "nobody"] += 1
        else:
            found.errors[outcome.error] += 1


def left_running(engine: ResilientEngine) -> int:
    """Places still taken when every call has ended, after a while for those given up on."""
    until = time.monotonic() + 5.0
    waiting = threading.Event()
    while (left := sum(guard.gate.running for guard in engine._guards.values())) and (
        time.monotonic() < until
    ):
        waiting.wait(0.01)
    return left
