from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15
from dspy.utils.exceptions import LMServerError
from pydantic import BaseModel

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import StorageError, ToolkitError
from dspy_toolkit.events import CallFinished, Event, subscribed
from dspy_toolkit.programs.calls import Calls, CallTally, Stopped, counted
from dspy_toolkit.programs.journal import FILE, CallJournal, call_content
from dspy_toolkit.programs.lm import LocalLM
from tests.programs.seed_echo import echo_lm
from tests.programs.tasks import scripted_lm
from tests.programs.test_lm_cache import cached

__all__ = ["cached"]


def in_journal(
    folder: Path, work: Callable[[], Any], *, forget_failures: bool = False
) -> tuple[Any, Calls]:
    """One process's share of a piece of work."""
    file = folder / FILE
    with (
        closing(CallJournal(file, forget_failures=forget_failures)) as journal,
        counted(CallTally("run", journal)) as tally,
    ):
        return work(), tally.calls


def failing(times: int) -> LocalLM:
    """Fails so often and answers then."""
    asked: list[str] = []

    def answer(request: str) -> str:
        asked.append(request)
        if len(asked) <= times:
            raise lm15.ServerError("down", status=503)
        return "up"

    return scripted_lm(answer)


def test_a_call_is_made_once_and_answered_from_the_file_later(tmp_path: Path) -> None:
    lm = scripted_lm(lambda request: f"said {request}")
    first = in_journal(tmp_path, lambda: [lm("a"), lm("b"), lm("a")])
    second = in_journal(tmp_path, lambda: [lm("a"), lm("b"), lm("a"), lm("c")])

    assert first == ([["said user: a"], ["said user: b"], ["said user: a"]], Calls(2, 1))
    # What the first process made counts as made: it is the work that counts, not the process.
    assert second == ([*first[0], ["said user: c"]], Calls(3, 1))
    assert len(lm.engine.requests) == 3


def test_repeated_calls_are_told_as_cached(tmp_path: Path) -> None:
    events: list[Event] = []
    with subscribed(events.append):
        in_journal(tmp_path, lambda: (echo_lm()("a"), echo_lm()("a")))
    calls = [event for event in events if isinstance(event, CallFinished)]

    assert [call.cached for call in calls] == [False, True]
    assert [(call.input_tokens, call.output_tokens) for call in calls] == [(3, 2), (3, 2)]


@pytest.mark.parametrize(
    "other",
    [
        lambda lm: lm("b"),
        lambda lm: lm.copy(model="mlx/other#scripted")("a"),
        lambda lm: lm("a", max_tokens=5),
        lambda lm: lm("a", rollout_id=3, temperature=1.0),
        lambda lm: lm("a", temperature=1.0),
        lambda lm: lm.copy(seed=4)("a", temperature=1.0),
        lambda lm: lm("a", stop=["x"]),
    ],
)
def test_whatever_may_change_the_answer_makes_another_call(
    tmp_path: Path, other: Callable[[LocalLM], Any]
) -> None:
    lm = scripted_lm(lambda request: "yes", num_retries=0)
    _, calls = in_journal(tmp_path, lambda: (lm("a"), other(lm)))

    assert calls == Calls(2, 0)


def test_samples_are_calls_of_their_own(tmp_path: Path) -> None:
    lm = echo_lm(temperature=1.0)
    first, calls = in_journal(tmp_path, lambda: lm("a", n=3))
    again, _ = in_journal(tmp_path, lambda: lm("a", n=3))

    assert (len(set(first)), calls.made) == (3, 3)
    assert again == first


def test_a_request_is_answered_with_the_whole_response(tmp_path: Path) -> None:
    lm = echo_lm(temperature=1.0, seed=3)
    request = lm15.Request(
        model=lm.model, messages=(lm15.Message.user("hello"),), config=lm15.Config(temperature=1.0)
    )
    first, _ = in_journal(tmp_path, lambda: lm(request))
    again, _ = in_journal(tmp_path, lambda: lm(request=request))

    assert again == first
    assert (again.text, again.usage.output_tokens) == ("3", 2)


class Calling:
    """An engine that calls a tool and thinks aloud."""

    supported_params = frozenset({"tools", "max_tokens"})
    supports_function_calling = True

    def complete(self, request: lm15.Request) -> lm15.Response:
        call = lm15.ToolCallPart(id="1", name="look", input={"at": "x"})
        parts = (lm15.ThinkingPart("hm"), lm15.TextPart("so"), call)
        message = lm15.Message(role="assistant", parts=parts)
        return lm15.Response(
            id="1",
            model=request.model,
            message=message,
            finish_reason="tool_call",
            usage=lm15.Usage(input_tokens=1, output_tokens=1, total_tokens=2),
        )


def test_tool_calls_and_thoughts_come_back_as_they_were(tmp_path: Path) -> None:
    lm = LocalLM("mlx/calling#1", engine=Calling(), cache=False)
    ((first,), _), ((again,), _) = (in_journal(tmp_path, lambda: lm("a")) for _ in range(2))

    assert again == first
    assert again["tool_calls"][0].function.name == "look"
    assert again["reasoning_content"] == "hm"


def test_a_failure_is_repeated_until_it_is_forgotten(tmp_path: Path) -> None:
    lm = failing(1)

    def work() -> list[str]:
        said: list[str] = lm("a")
        return said

    for _ in range(2):
        with pytest.raises(LMServerError, match="down") as raised:
            in_journal(tmp_path, work)
        assert (raised.value.status, raised.value.model) == (503, lm.model)
    assert len(lm.engine.requests) == 1
    assert in_journal(tmp_path, work, forget_failures=True)[0] == ["up"]
    assert in_journal(tmp_path, work)[0] == ["up"]


def test_identical_calls_at_once_are_one_call(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def answer(request: str) -> str:
        return "yes"

    lm = scripted_lm(answer)

    def ask(_: int) -> Any:
        with counted(tally):
            together.wait()
            return lm("a")

    with closing(CallJournal()) as journal, ThreadPoolExecutor(8) as pool:
        tally = CallTally("run", journal)
        answers = list(pool.map(ask, range(8)))

    assert answers == [["yes"]] * 8
    assert (len(lm.engine.requests), tally.calls) == (1, Calls(1, 7))


def test_coroutines_share_calls_with_each_other_and_with_threads(tmp_path: Path) -> None:
    lm = scripted_lm(lambda request: "yes")

    async def work() -> list[list[str]]:
        answers: list[list[str]] = await asyncio.gather(*(lm.acall("a") for _ in range(5)))
        return answers

    first, calls = in_journal(tmp_path, lambda: asyncio.run(work()))
    second, _ = in_journal(tmp_path, lambda: lm("a"))

    assert (first, second) == ([["yes"]] * 5, ["yes"])
    assert (calls, len(lm.engine.requests)) == (Calls(1, 4), 1)


def test_a_call_that_broke_off_is_made_by_who_waited_for_it(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()
    asked: list[str] = []

    def answer(request: str) -> str:
        asked.append(request)
        if len(asked) == 1:
            entered.set()
            leave.wait()
            raise KeyboardInterrupt
        return "yes"

    lm = scripted_lm(answer)

    def ask() -> Any:
        with counted(tally):
            return lm("a")

    with closing(CallJournal(tmp_path / FILE)) as journal, ThreadPoolExecutor(2) as pool:
        tally = CallTally("run", journal)
        first = pool.submit(ask)
        entered.wait()
        second = pool.submit(ask)
        leave.set()

        with pytest.raises(KeyboardInterrupt):
            first.result()
        assert second.result() == ["yes"]
    assert len(journal.records) == 1


def test_what_failed_because_everything_was_stopped_is_not_kept(tmp_path: Path) -> None:
    def answer(request: str) -> str:
        tally.stop(ToolkitError("enough"))
        raise lm15.ServerError("closed")

    lm = scripted_lm(answer)
    with (
        closing(CallJournal(tmp_path / FILE)) as journal,
        counted(CallTally("r", journal)) as tally,
    ):
        with pytest.raises(Stopped):
            lm("a")

        assert journal.records == ()


def test_a_journal_that_cannot_be_written_stops_everything(tmp_path: Path) -> None:
    journal = CallJournal(tmp_path / FILE)
    journal.close()
    lm = scripted_lm(lambda request: "yes")
    with counted(CallTally("r", journal)) as tally:
        with pytest.raises(Stopped) as raised:
            lm("a")

        assert isinstance(raised.value.error, StorageError)
        assert tally.stopped


def test_a_damaged_journal_loses_the_damaged_calls_alone(tmp_path: Path) -> None:
    lm = scripted_lm(lambda request: "yes")
    in_journal(tmp_path, lambda: [lm(name) for name in "abcd"])
    content = bytearray((tmp_path / FILE).read_bytes())
    content[content.index(b"\n") + 30] ^= 1
    (tmp_path / FILE).write_bytes(bytes(content))
    with closing(CallJournal(tmp_path / FILE)) as journal:
        assert (journal.recovered.damaged, len(journal.records)) == (1, 3)

    in_journal(tmp_path, lambda: [lm(name) for name in "abcd"])
    assert len(lm.engine.requests) == 5


def test_answers_from_dspys_cache_are_kept_too(tmp_path: Path, cached: Settings) -> None:
    lm = scripted_lm(lambda request: "yes", cache=True)
    lm("a")
    _, calls = in_journal(tmp_path, lambda: lm("a"))
    dspy.cache.reset_memory_cache()
    dspy.cache.disk_cache.clear()
    again = in_journal(tmp_path, lambda: lm("a"))

    assert (calls, again) == (Calls(0, 1), (["yes"], Calls(0, 1)))
    assert len(lm.engine.requests) == 1


def test_a_schema_is_part_of_the_call() -> None:
    class One(BaseModel):
        team: str

    class Two(BaseModel):
        team: int

    lm = scripted_lm(lambda request: "yes")
    contents = [call_content(lm, "a", None, {"response_format": kind}) for kind in (One, Two)]

    assert contents[0] != contents[1]
    assert b'"team"' in contents[0]
