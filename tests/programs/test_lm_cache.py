"""Answers that are kept, and equal calls that are made once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15

from dspy_toolkit.config import Settings
from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.events import Event, subscribed
from dspy_toolkit.programs.cache import use_call_cache
from dspy_toolkit.programs.calls import Calls, CallTally, counted
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.resilience import ResilientEngine
from dspy_toolkit.resilience.reading import read_policy
from tests.programs.seed_echo import SeedEcho, calls_of
from tests.programs.tasks import scripted_lm


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(home=tmp_path)
    use_call_cache(settings)
    yield settings
    dspy.cache.disk_cache.close()


def test_equal_calls_at_once_are_made_once(cached: Settings) -> None:
    started, gate = threading.Semaphore(0), threading.Event()

    def wait(request: str) -> str:
        started.release()
        gate.wait(20)
        return "yes"

    lm = scripted_lm(wait, cache=True)
    tally = CallTally()

    def ask(question: str) -> Any:
        with counted(tally):
            return lm(question)

    with ThreadPoolExecutor(9) as pool:
        asked = [pool.submit(ask, "hello") for _ in range(8)] + [pool.submit(ask, "other")]
        for _ in range(2):
            started.acquire(timeout=20)
        gate.set()
        answers = [each.result() for each in asked]

    assert answers == [["yes"]] * 9
    assert len(lm.engine.requests) == 2
    assert tally.calls == Calls(made=2, cached=7)


def test_equal_calls_of_coroutines_are_made_once_and_one_may_leave(cached: Settings) -> None:
    class Slow:
        asked = 0

        def __init__(self) -> None:
            self.gate = asyncio.Event()

        async def complete(self, request: lm15.Request) -> lm15.Response:
            self.asked += 1
            await self.gate.wait()
            return SeedEcho().complete(request)

    async def main() -> tuple[int, int, list[Any]]:
        slow = Slow()
        lm = LocalLM("mlx/slow#1", engine=SeedEcho(), async_engine=slow)
        tasks = [asyncio.create_task(lm.acall("hello")) for _ in range(4)]
        while not slow.asked:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        once = slow.asked
        tasks[0].cancel()
        slow.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return once, slow.asked, answers

    once, asked, answers = asyncio.run(main())

    assert once == 1
    assert asked <= 4
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [["None"]] * 3


def test_an_error_of_the_first_of_equal_calls_reaches_all(cached: Settings) -> None:
    gate = threading.Event()
    boarded = threading.Semaphore(0)

    def fail(request: str) -> str:
        gate.wait(20)
        raise lm15.ServerError("the engine broke")

    lm = scripted_lm(fail, cache=True)

    def ask() -> str:
        boarded.release()
        with pytest.raises(dspy.LMError) as caught:
            lm("hello")
        return str(caught.value)

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        for _ in range(4):
            boarded.acquire(timeout=20)
        gate.set()
        errors = [each.result() for each in asked]

    assert all("broke" in error for error in errors)
    assert len(lm.engine.requests) <= 4


def test_an_answer_that_another_engine_gave_is_not_kept(cached: Settings) -> None:
    down = [True]

    def local(request: str) -> str:
        if down[0]:
            raise lm15.ServerError("down")
        return "local"

    engine = ResilientEngine(
        read_policy(
            {
                "primary": "local",
                "engines": {"local": {"fallback": "spare", "retry": {"attempts": 1}}, "spare": {}},
            }
        ),
        {"local": ScriptedEngine(local), "spare": ScriptedEngine(lambda request: "spare")},
    )
    lm = LocalLM("mlx/both#1", engine=engine, async_engine=engine.async_twin)

    assert lm("hello") == ["spare"]
    assert asyncio.run(lm.acall("hello")) == ["spare"]
    down[0] = False
    assert lm("hello") == ["local"]
    assert asyncio.run(lm.acall("hello")) == ["local"]
    down[0] = True
    assert lm("hello") == ["local"]
    assert asyncio.run(lm.acall("hello")) == ["local"]


def test_a_repeated_call_comes_from_the_cache_and_costs_nothing(cached: Settings) -> None:
    lm = scripted_lm(lambda request: "yes", cache=True)
    tally = CallTally()
    events: list[Event] = []
    with counted(tally), subscribed(events.append):
        answers = [lm("hello"), lm("hello")]

    assert answers == [["yes"], ["yes"]]
    assert len(lm.engine.requests) == 1
    assert tally.calls == Calls(made=1, cached=1)
    assert [call.cached for call in calls_of(events)] == [False, True]
    assert calls_of(events)[1].input_tokens == 0


def test_answers_outlive_the_process_memory(cached: Settings) -> None:
    scripted_lm(lambda request: "yes", cache=True)("hello")
    dspy.cache.reset_memory_cache()
    lm = scripted_lm(lambda request: "no", cache=True)

    assert lm("hello") == ["yes"]
    assert lm.engine.requests == []
    assert any((cached.home / "cache").iterdir())


def test_a_second_home_does_not_see_the_first_ones_answers(
    cached: Settings, tmp_path: Path
) -> None:
    scripted_lm(lambda request: "yes", cache=True)("hello")
    use_call_cache(Settings(home=tmp_path / "other"))

    assert scripted_lm(lambda request: "no", cache=True)("hello") == ["no"]
