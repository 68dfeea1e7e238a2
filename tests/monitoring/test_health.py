from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest

from dspy_toolkit.contract import Request, Response, ServerError, TimeoutError
from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.events import AttemptFinished, GenerationFinished, emit, subscribed
from dspy_toolkit.monitoring import Health
from dspy_toolkit.resilience import (
    EnginePolicy,
    FaultyEngine,
    FixedAnswer,
    ManualClock,
    Policy,
    ResilientEngine,
    RetryPolicy,
)

SOON_S = 0.01


def model(clock: ManualClock) -> FaultyEngine:
    return FaultyEngine(ScriptedEngine(lambda text: "ok"), clock)


def at_once(job: Callable[[], None]) -> None:
    job()


def health(engine: object, clock: ManualClock, **settings: object) -> Health:
    chosen = {"now": clock.now, "start": at_once, "within_s": 60.0, **settings}
    return Health({"m": engine}, **chosen)  # type: ignore[arg-type,dict-item]


def test_a_process_that_answers_is_alive_whatever_its_engine_does() -> None:
    clock = ManualClock()
    engine = model(clock)
    engine.fail_next(ServerError("down"), times=9)

    assert health(engine, clock).check("live").ok
    assert engine.calls == 0


def test_an_engine_that_takes_no_calls_is_not_ready() -> None:
    clock = ManualClock()
    engine = model(clock)
    watching = health(engine, clock)

    assert watching.check("ready").ok

    engine.__dict__["alive"] = False
    report = watching.check("ready")

    assert not report.ok
    assert report.status == 503
    assert report.findings[0].reason == "takes no calls now"


def test_the_deep_check_asks_for_one_token_and_then_lives_on_it_for_a_while() -> None:
    clock = ManualClock()
    engine = model(clock)
    watching = health(engine, clock)

    assert watching.check("deep").ok
    assert engine.calls == 1

    clock.advance(60.0)

    assert watching.check("deep").findings[0].token_age_s == 60.0
    assert engine.calls == 1

    clock.advance(1.0)

    assert watching.check("deep").ok
    assert engine.calls == 2


@pytest.mark.parametrize(
    "event",
    [
        GenerationFinished("m", 10, 2, 0.1, 0.2, "stop"),
        AttemptFinished("m", 0.2, None, first_token_s=0.1),
    ],
)
def test_real_traffic_spares_the_probe(event: GenerationFinished | AttemptFinished) -> None:
    clock = ManualClock()
    engine = model(clock)
    watching = health(engine, clock)
    with subscribed(watching):
        emit(event)

    assert watching.check("deep").ok
    assert engine.calls == 0


def test_tokens_of_another_engine_say_nothing_about_this_one() -> None:
    clock = ManualClock()
    engine = model(clock)
    engine.fail_next(ServerError("out of memory"))
    watching = health(engine, clock)
    watching(GenerationFinished("another", 10, 2, 0.1, 0.2, "stop"))
    report = watching.check("deep")

    assert not report.ok
    assert "out of memory" in report.findings[0].reason


def test_an_engine_that_recovers_is_well_at_the_next_look() -> None:
    clock = ManualClock()
    engine = model(clock)
    engine.fail_next(TimeoutError("no token"))
    watching = health(engine, clock)

    assert [watching.check("deep").ok for _ in range(2)] == [False, True]


def test_a_default_that_stands_in_for_the_model_is_not_health() -> None:
    clock = ManualClock()
    engine = model(clock)
    engine.fail_next(ServerError("down"), times=9)
    policy = Policy(
        "local",
        {
            "local": EnginePolicy(fallback="default", retry=RetryPolicy(attempts=1)),
            "default": EnginePolicy(),
        },
    )
    chain = ResilientEngine(policy, {"local": engine, "default": FixedAnswer("x")}, clock=clock)
    watching = Health({"chain": chain}, now=clock.now, start=at_once)
    report = watching.check("deep")

    assert not report.ok
    assert report.findings[0].reason == "no model generates; default stands in for it"

    engine.heal()

    assert watching.check("deep").ok


class Hanging:
    """Answers nothing until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.asked = threading.Semaphore(0)

    def complete(self, request: Request) -> Response:
        self.asked.release()
        self.released.wait()
        return FixedAnswer("late").answer(request)


def test_a_hanging_engine_is_told_in_time_and_probed_once_only() -> None:
    engine = Hanging()
    watching = Health({"m": engine}, patience_s=SOON_S)
    reports = [watching.check("deep") for _ in range(3)]
    engine.asked.acquire()
    probes_beside_the_first = engine.asked.acquire(blocking=False)
    engine.released.set()

    assert [report.ok for report in reports] == [False] * 3
    assert "a probe has waited" in reports[0].findings[0].reason
    assert not probes_beside_the_first


def test_several_engines_share_one_patience() -> None:
    engines = {name: Hanging() for name in ("a", "b", "c")}
    watching = Health(engines, patience_s=SOON_S)
    report = watching.check("deep")
    for engine in engines.values():
        engine.released.set()

    assert [finding.subject for finding in report.findings] == ["a", "b", "c"]
    assert not report.ok


@pytest.mark.parametrize("level", ["", "shallow", "deeep"])
def test_an_unknown_level_is_refused(level: str) -> None:
    with pytest.raises(InvalidInput, match="level"):
        Health({}).check(level)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_times_that_make_no_sense_are_refused(seconds: float) -> None:
    with pytest.raises(InvalidInput, match="above 0"):
        Health({}, within_s=seconds)
