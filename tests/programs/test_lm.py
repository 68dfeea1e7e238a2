from __future__ import annotations

import asyncio
import copy
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
from dspy_toolkit.errors import EngineError, InvalidInput
from dspy_toolkit.events import CallFinished, Event, subscribed
from dspy_toolkit.programs.cache import use_call_cache
from dspy_toolkit.programs.calls import Calls, CallTally, Stopped, counted
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.opening import chosen_model
from dspy_toolkit.resilience import ResilientEngine
from dspy_toolkit.resilience.reading import read_policy
from tests.programs.tasks import scripted_lm


class SeedEcho:
    """An engine that answers with the seed it was asked to sample with."""

    supported_params = frozenset({"temperature", "seed", "max_tokens"})

    def complete(self, request: lm15.Request) -> lm15.Response:
        return lm15.Response(
            id="1",
            model=request.model,
            message=lm15.Message.assistant(str(request.config.seed)),
            finish_reason="stop",
            usage=lm15.Usage(input_tokens=3, output_tokens=2, total_tokens=5),
        )


class Meeting(SeedEcho):
    """Answers when so many are asking at once."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count)

    def complete(self, request: lm15.Request) -> lm15.Response:
        self._barrier.wait(20)
        return super().complete(request)


def met_lm(count: int, **settings: Any) -> LocalLM:
    return LocalLM("mlx/met#1", engine=Meeting(count), cache=False, **settings)


def echo_lm(**settings: Any) -> LocalLM:
    return LocalLM("mlx/echo#1", engine=SeedEcho(), cache=False, **settings)


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(home=tmp_path)
    use_call_cache(settings)
    yield settings
    dspy.cache.disk_cache.close()


def calls_of(events: list[Event]) -> list[CallFinished]:
    return [event for event in events if isinstance(event, CallFinished)]


def test_greedy_calls_have_no_seed() -> None:
    assert echo_lm()("hello") == ["None"]


def test_sampled_calls_have_the_seed_of_the_model() -> None:
    assert echo_lm(temperature=0.5, seed=7)("hello") == ["7"]
    assert echo_lm(temperature=0.5)("hello", seed=9) == ["9"]


def test_rollouts_sample_differently_and_repeatably() -> None:
    lm = echo_lm(temperature=1.0, seed=1)
    first = [lm("hello", rollout_id=rollout)[0] for rollout in range(20)]
    again = [lm.copy(rollout_id=rollout)("hello")[0] for rollout in range(20)]

    assert first == again
    assert len(set(first)) == 20
    assert first != [lm.copy(seed=2)("hello", rollout_id=rollout)[0] for rollout in range(20)]
    assert all(0 <= int(seed) < 2**31 for seed in first)


def test_samples_of_one_call_differ() -> None:
    answers = echo_lm(temperature=1.0)("hello", n=3)

    assert len(set(answers)) == 3


def test_samples_are_asked_for_at_once_and_come_in_order() -> None:
    lm = met_lm(3, temperature=1.0)
    alone = [echo_lm(temperature=1.0)("hello", n=3)[number] for number in range(3)]

    assert lm("hello", n=3) == alone


def test_samples_are_asked_for_the_same_way_by_coroutines() -> None:
    lm = scripted_lm(lambda request: "yes", temperature=1.0)

    answers = asyncio.run(lm.acall("hello", n=2))

    assert answers == ["yes", "yes"]
    assert len(lm.engine.requests) == 2


def test_samples_without_chance_are_asked_for_once() -> None:
    lm = scripted_lm(lambda request: "yes")

    assert lm("hello", n=3) == ["yes"] * 3
    assert asyncio.run(lm.acall("hello", n=3)) == ["yes"] * 3
    assert len(lm.engine.requests) == 2


def test_a_sample_that_fails_fails_the_call() -> None:
    def fail(request: str) -> str:
        raise lm15.ServerError("the engine broke")

    lm = scripted_lm(fail, temperature=1.0)

    with pytest.raises(dspy.LMError, match="broke"):
        lm("hello", n=2)
    with pytest.raises(dspy.LMError, match="broke"):
        asyncio.run(lm.acall("hello", n=2))


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
                "engines": {
                    "local": {"fallback": "spare", "retry": {"attempts": 1}},
                    "spare": {},
                },
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


def test_an_explicit_request_is_answered_with_a_response() -> None:
    lm = echo_lm(temperature=1.0, seed=3)
    request = lm15.Request(
        model=lm.model,
        messages=(lm15.Message.user("hello"),),
        config=lm15.Config(temperature=1.0),
    )

    answered = lm(request)

    assert isinstance(answered, lm15.Response)
    assert answered.text == "3"
    assert lm(request, rollout_id=1).text not in ("3", "None")


def test_deep_copies_are_the_model_itself() -> None:
    lm = echo_lm()
    program = dspy.Predict("question -> answer")
    program.set_lm(lm)

    assert copy.deepcopy(lm) is lm
    assert program.deepcopy().lm is lm


def test_every_call_is_reported_with_its_tokens() -> None:
    events: list[Event] = []
    with subscribed(events.append):
        echo_lm()("hello")

    (call,) = calls_of(events)

    assert (call.model, call.input_tokens, call.output_tokens) == ("mlx/echo#1", 3, 2)
    assert (call.cached, call.error) == (False, None)


def test_a_call_names_the_run_it_was_made_for() -> None:
    events: list[Event] = []
    with subscribed(events.append):
        with counted(CallTally("run-7")) as tally:
            echo_lm()("hello")
        echo_lm()("hello")

    assert [call.run for call in calls_of(events)] == ["run-7", None]
    assert tally.calls == Calls(made=1, cached=0)


def test_a_model_opened_for_a_block_is_given_back_and_one_given_stays() -> None:
    released: list[str] = []

    class Closing(SeedEcho):
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            released.append(self.name)

    given = LocalLM("given", engine=Closing("given"), cache=False)
    opened = LocalLM("opened", engine=Closing("opened"), cache=False)

    with chosen_model(given, None, None, lambda model, adapter: opened) as used:
        assert used is given
    with pytest.raises(ZeroDivisionError), chosen_model(None, None, None, lambda *_: opened):
        _ = 1 / 0

    assert released == ["opened"]
    with pytest.raises(InvalidInput, match="leave out model and adapter"):
        chosen_model(given, "embedded", None, lambda *_: opened).__enter__()


def test_a_failed_call_is_reported_with_the_kind_of_error() -> None:
    def fail(request: str) -> str:
        raise lm15.ServerError("the engine broke")

    events: list[Event] = []
    tally = CallTally()
    lm = scripted_lm(fail)
    with subscribed(events.append), counted(tally), pytest.raises(dspy.LMError, match="broke"):
        lm("hello")

    assert calls_of(events)[0].error == "LMServerError"
    assert tally.calls == Calls(made=1, cached=0)
    assert len(lm.engine.requests) == 1


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


def test_users_usage_tracking_still_hears_of_calls() -> None:
    with dspy.track_usage() as usage:
        echo_lm()("hello")

    assert usage.get_total_tokens()["mlx/echo#1"]["prompt_tokens"] == 3


def test_a_tally_counts_every_call_of_many_threads() -> None:
    lm = scripted_lm(lambda request: "yes")
    tally = CallTally()

    def ask(_: int) -> None:
        with counted(tally):
            lm("hello")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(200)))

    assert tally.calls == Calls(made=200, cached=0)


def test_a_stopped_tally_lets_no_call_through_and_keeps_the_first_reason() -> None:
    lm = scripted_lm(lambda request: "yes")
    tally = CallTally()
    tally.stop(EngineError("first"))
    tally.stop(EngineError("second"))

    with counted(tally), pytest.raises(Stopped, match="first"):
        lm("hello")

    assert lm.engine.requests == []
    assert tally.calls == Calls()


def test_a_call_that_breaks_because_all_was_stopped_is_not_taken_for_a_failure() -> None:
    tally = CallTally()

    def stop_and_fail(request: str) -> str:
        tally.stop(EngineError("enough"))
        raise lm15.ServerError("closed")

    with counted(tally), pytest.raises(Stopped, match="enough"):
        scripted_lm(stop_and_fail)("hello")


def test_draining_waits_for_calls_in_flight() -> None:
    tally = CallTally()
    gate = threading.Event()

    def wait(request: str) -> str:
        gate.wait(20)
        return "yes"

    def ask() -> None:
        with counted(tally):
            scripted_lm(wait)("hello")

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(ask)
        tally.drain(0.0)
        gate.set()
        call.result()
        tally.drain(20)

    assert tally.calls == Calls(made=1)
