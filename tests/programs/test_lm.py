from __future__ import annotations

import asyncio
import copy
import threading
from typing import Any

import dspy
import pytest
from dspy import lm15

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.events import Event, subscribed
from dspy_toolkit.programs.calls import Calls, CallTally, counted
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.opening import chosen_model
from tests.programs.seed_echo import SeedEcho, calls_of, echo_lm
from tests.programs.tasks import scripted_lm


class Meeting(SeedEcho):
    """Answers when so many are asking at once."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count)

    def complete(self, request: lm15.Request) -> lm15.Response:
        self._barrier.wait(20)
        return super().complete(request)


def met_lm(count: int, **settings: Any) -> LocalLM:
    return LocalLM("mlx/met#1", engine=Meeting(count), cache=False, **settings)


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


def test_an_explicit_request_is_answered_with_a_response() -> None:
    lm = echo_lm(temperature=1.0, seed=3)
    request = lm15.Request(
        model=lm.model, messages=(lm15.Message.user("hello"),), config=lm15.Config(temperature=1.0)
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


def test_users_usage_tracking_still_hears_of_calls() -> None:
    with dspy.track_usage() as usage:
        echo_lm()("hello")

    assert usage.get_total_tokens()["mlx/echo#1"]["prompt_tokens"] == 3
