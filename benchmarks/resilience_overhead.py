"""What the policy costs when all is well: guarded calls beside bare calls of the same engine.

    python benchmarks/resilience_overhead.py [--calls 2000] [--rounds 15] [--json]

Bare and guarded calls take turns in one run, so that a busy machine slows both. Of each, the
fastest round counts: what the code costs. Processor time is shown beside, since other programs
take none of it. As measures of the machine, the standard library's own ways to give up on a call
(`concurrent.futures`, `asyncio.wait_for`) take their turns too, and so does waking another thread
by a lock and being woken by it, which is the least that any of them can do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dspy_toolkit.contract import (
    Engine,
    Message,
    Request,
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamEvent,
    StreamStartEvent,
    TextDelta,
    Usage,
)
from dspy_toolkit.resilience import (
    BreakerPolicy,
    EnginePolicy,
    FixedAnswer,
    Policy,
    ResilientEngine,
    RetryPolicy,
    TimeoutPolicy,
)

BAR_US = 50.0
TOKENS = 100
REQUEST = Request(model="m", messages=(Message.user("question"),))
ANSWER = Response(
    id="1",
    model="m",
    message=Message.assistant("answer " * 50),
    finish_reason="stop",
    usage=Usage(input_tokens=100, output_tokens=50),
)
EVENTS: tuple[StreamEvent, ...] = (
    StreamStartEvent(id="1", model="m"),
    *(StreamDeltaEvent(delta=TextDelta(text="token ")) for _ in range(TOKENS)),
    StreamEndEvent(finish_reason="stop", usage=Usage(input_tokens=100, output_tokens=TOKENS)),
)


class Instant:
    """An engine that does nothing, so that all time is the policy's."""

    def complete(self, request: Request) -> Response:
        return ANSWER

    def stream(self, request: Request) -> Iterator[StreamEvent]:
        yield from EVENTS

    def close(self) -> None:
        pass

    @property
    def async_twin(self) -> InstantTwin:
        return InstantTwin()


class InstantTwin:
    async def complete(self, request: Request) -> Response:
        return ANSWER

    async def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        for event in EVENTS:
            yield event

    async def aclose(self) -> None:
        pass


class Echo:
    """A thread that is woken, does nothing, and wakes its caller."""

    def __init__(self) -> None:
        self._there, self._back = threading.Lock(), threading.Lock()
        self._there.acquire()
        self._back.acquire()
        threading.Thread(target=self._run, daemon=True).start()

    def wake(self) -> None:
        self._there.release()
        self._back.acquire()

    def _run(self) -> None:
        while True:
            self._there.acquire()
            self._back.release()


class Punctual(Instant):
    """One that would heed a limit itself, as the toolkit's models do."""

    punctual = True


def guarded(
    timeouts: TimeoutPolicy, deadline_s: float | None, engine: Engine | None = None
) -> ResilientEngine:
    policy = Policy(
        primary="local",
        deadline_s=deadline_s,
        engines={
            "local": EnginePolicy(
                fallback="default",
                timeouts=timeouts,
                breaker=BreakerPolicy(slow_call_s=5.0),
                retry=RetryPolicy(attempts=3),
            ),
            "default": EnginePolicy(reserve_s=0.0 if deadline_s is None else 0.1),
        },
    )
    return ResilientEngine(policy, {"local": engine or Instant(), "default": FixedAnswer("none")})


@dataclass
class Timing:
    """Seconds a call, round by round, on the wall and on the processor."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @contextmanager
    def round(self, calls: int) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.wall.append((time.perf_counter() - wall) / calls)
        self.processor.append((time.process_time() - processor) / calls)


def rounds_of(calls: int, rounds: int, *actions: Callable[[], object]) -> list[Timing]:
    """Time each action; they take turns."""
    timings = [Timing() for _ in actions]
    for _ in range(rounds):
        for timing, action in zip(timings, actions, strict=True):
            with timing.round(calls):
                for _ in range(calls):
                    action()
    return timings


async def async_rounds_of(
    calls: int, rounds: int, *actions: Callable[[], Awaitable[object]]
) -> list[Timing]:
    timings = [Timing() for _ in actions]
    for _ in range(rounds):
        for timing, action in zip(timings, actions, strict=True):
            with timing.round(calls):
                for _ in range(calls):
                    await action()
    return timings


def row(name: str, bare: Timing, own: Timing, per: int = 1) -> dict[str, float | str]:
    us = 1e6 / per
    return {
        "call": name,
        "bare_us": round(min(bare.wall) * us, 2),
        "overhead_us": round((min(own.wall) - min(bare.wall)) * us, 1),
        "processor_us": round((min(own.processor) - min(bare.processor)) * us, 1),
        "ratio": round(min(own.wall) / min(bare.wall), 1),
    }


def measure(calls: int, rounds: int) -> list[dict[str, float | str]]:
    bare = Instant()
    plain = guarded(TimeoutPolicy(), None)
    limited = guarded(TimeoutPolicy(whole_s=10.0), 20.0)
    watched = guarded(TimeoutPolicy(first_token_s=5.0, between_tokens_s=2.0, whole_s=10.0), 20.0)
    in_place = guarded(TimeoutPolicy(whole_s=10.0), 20.0, Punctual())
    tokens_in_place = guarded(watched.policy.engines["local"].timeouts, 20.0, Punctual())
    pool, echo = ThreadPoolExecutor(1), Echo()
    first, second, third, fourth, standard, woken = rounds_of(
        calls,
        rounds,
        lambda: bare.complete(REQUEST),
        lambda: plain.complete(REQUEST),
        lambda: in_place.complete(REQUEST),
        lambda: limited.complete(REQUEST),
        lambda: pool.submit(bare.complete, REQUEST).result(10.0),
        lambda: (in_place.complete(REQUEST), echo.wake()),
    )
    rows = [
        row("complete, threads, no time limit", first, second),
        row("complete, threads, timeout and deadline, the toolkit's engines", first, third),
        row("complete, threads, timeout and deadline, any engine", first, fourth),
        row("(the second, and waking a thread that does nothing)", first, woken),
        row("(concurrent.futures with a timeout, no policy)", first, standard),
    ]
    few = max(calls // TOKENS, 1)
    first, second, third, fourth = rounds_of(
        few,
        rounds,
        lambda: list(bare.stream(REQUEST)),
        lambda: list(plain.stream(REQUEST)),
        lambda: list(tokens_in_place.stream(REQUEST)),
        lambda: list(watched.stream(REQUEST)),
    )
    rows += [
        row("stream, threads, no time limit, a token", first, second, TOKENS),
        row("stream, threads, token timeouts, the toolkit's, a token", first, third, TOKENS),
        row("stream, threads, token timeouts, any engine, a token", first, fourth, TOKENS),
    ]
    return rows + asyncio.run(measure_async(calls, rounds, plain, limited, watched))


async def measure_async(
    calls: int,
    rounds: int,
    plain: ResilientEngine,
    limited: ResilientEngine,
    watched: ResilientEngine,
) -> list[dict[str, float | str]]:
    bare = InstantTwin()
    first, second, third, standard = await async_rounds_of(
        calls,
        rounds,
        lambda: bare.complete(REQUEST),
        lambda: plain.async_twin.complete(REQUEST),
        lambda: limited.async_twin.complete(REQUEST),
        lambda: asyncio.wait_for(bare.complete(REQUEST), 10.0),
    )
    rows = [
        row("complete, coroutines, no time limit", first, second),
        row("complete, coroutines, timeout and deadline", first, third),
        row("(asyncio.wait_for, no policy)", first, standard),
    ]

    async def read(events: AsyncIterator[StreamEvent]) -> list[StreamEvent]:
        return [event async for event in events]

    few = max(calls // TOKENS, 1)
    first, second, third = await async_rounds_of(
        few,
        rounds,
        lambda: read(bare.stream(REQUEST)),
        lambda: read(plain.async_twin.stream(REQUEST)),
        lambda: read(watched.async_twin.stream(REQUEST)),
    )
    return [
        *rows,
        row("stream, coroutines, no time limit, a token", first, second, TOKENS),
        row("stream, coroutines, token timeouts, a token", first, third, TOKENS),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rows = measure(chosen.calls, chosen.rounds)
    if chosen.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(each[key]) for key in head] for each in rows)]
    sys.stdout.write("".join(f"| {' | '.join(line)} |\n" for line in lines))
    calls_only = [each for each in rows if str(each["call"]).startswith("complete")]
    worst = max(float(each["overhead_us"]) for each in calls_only)
    sys.stdout.write(f"\nworst of a call: {worst} us, bar {BAR_US:g} us, load {os.getloadavg()}\n")


if __name__ == "__main__":
    main()
