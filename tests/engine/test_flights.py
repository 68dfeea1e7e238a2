from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
from dspy import lm15

from dspy_toolkit.engine.flights import Flight, Flights
from dspy_toolkit.engine.output import Markers, OutputReader, Piece
from dspy_toolkit.engine.refusals import EngineStopped
from dspy_toolkit.engine.sampling import Sampling
from dspy_toolkit.engine.sequence import Failed, Message, Sequence
from dspy_toolkit.events import Event, GenerationFinished, subscribed
from tests.conformance.engine_contract import ask, text_of

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine


class Thread:
    """Takes sequences and leaves them lying."""

    def __init__(self, stopped: bool = False) -> None:
        self.taken: list[Sequence] = []
        self.cancelled: list[Sequence] = []
        self._stopped = stopped

    def submit(self, sequence: Sequence) -> None:
        if self._stopped:
            raise EngineStopped("over")
        self.taken.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        self.cancelled.append(sequence)


def sequence(sink: Callable[[Message], None], **changes: Any) -> Sequence:
    values: dict[str, Any] = {
        "prompt": [1, 2, 3],
        "sampling": Sampling(),
        "max_tokens": 8,
        "eos": frozenset({0}),
        "reader": OutputReader(None, changes.pop("markers", Markers())),  # type: ignore[arg-type]
        "sink": sink,
    }
    return Sequence(**{**values, **changes})


def board(flights: Flights, thread: Thread, heard: list[Message], **changes: Any) -> Flight:
    return flights.board(sequence(heard.append, **changes), thread)


def test_all_who_ask_for_the_same_hear_the_whole_of_one_sequence() -> None:
    flights, thread = Flights(), Thread()
    heard: list[list[Message]] = [[], [], []]
    for each in heard[:2]:
        board(flights, thread, each, streaming=True)
    (one,) = thread.taken
    one.sink(Piece("text", "a"))
    board(flights, thread, heard[2], streaming=True)
    one.sink(Piece("text", "b"))
    one.sink(Failed(ValueError("end")))

    assert [[type(m).__name__ for m in each] for each in heard] == [
        ["Piece", "Piece", "Failed"]
    ] * 3
    assert flights.joined == 2


def test_after_its_end_a_sequence_is_joined_by_nobody() -> None:
    flights, thread = Flights(), Thread()
    first = board(flights, thread, [])
    thread.taken[0].sink(Failed(ValueError("end")))

    assert board(flights, thread, []) is not first
    assert len(thread.taken) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": [1, 2]},
        {"max_tokens": 9},
        {"eos": frozenset({1})},
        {"markers": Markers(stops=("x",))},
        {"streaming": True},
        {"logprobs": 1},
        {"grammar": object()},
        {"choices": ("a",)},
        {"sampling": Sampling(temperature=1.0, seed=1)},
        {"sampling": Sampling(repetition_penalty=1.2)},
    ],
)
def test_what_differs_in_anything_that_matters_is_not_joined(changes: dict[str, Any]) -> None:
    flights, thread = Flights(), Thread()
    board(flights, thread, [])
    board(flights, thread, [], **changes)

    assert len(thread.taken) == 2
    assert flights.joined == 0


def test_chance_is_joined_only_under_the_same_seed() -> None:
    flights, thread = Flights(), Thread()
    for seed in (None, None, 4, 4):
        board(flights, thread, [], sampling=Sampling(temperature=1.0, seed=seed))

    assert len(thread.taken) == 3


def test_one_who_leaves_ends_it_only_as_the_last() -> None:
    flights, thread = Flights(), Thread()
    heard: list[list[Message]] = [[], []]
    sinks = [each.append for each in heard]
    both = [flights.board(sequence(sink), thread) for sink in sinks]
    flights.leave(both[0], sinks[0], thread)
    none_yet = list(thread.cancelled)
    thread.taken[0].sink(Failed(ValueError("end")))
    third = flights.board(sequence(sinks[0]), thread)
    flights.leave(third, sinks[0], thread)

    assert none_yet == []
    assert [len(each) for each in heard] == [0, 1]
    assert thread.cancelled == [third.sequence]


def test_a_thread_that_has_ended_leaves_nothing_behind() -> None:
    flights = Flights()
    with pytest.raises(EngineStopped, match="over"):
        board(flights, Thread(stopped=True), [])
    thread = Thread()
    board(flights, thread, [])

    assert len(thread.taken) == 1


def test_equal_calls_of_an_engine_decode_once_and_are_reported_once(engine: MlxEngine) -> None:
    request = ask("All ask the same.", max_tokens=200)
    events: list[Event] = []
    before = engine.stats()
    with subscribed(events.append), ThreadPoolExecutor(6) as threads:
        barrier = threading.Barrier(6)

        def one(_: int) -> lm15.Response:
            barrier.wait(20)
            return engine.complete(request)

        answers = list(threads.map(one, range(6)))
    after = engine.stats()

    assert len({answer.text for answer in answers}) == 1
    assert after.joined - before.joined == 5
    assert after.decoded - before.decoded == answers[0].usage.output_tokens
    assert len([event for event in events if isinstance(event, GenerationFinished)]) == 1


def test_a_stream_joined_in_its_middle_is_whole(engine: MlxEngine) -> None:
    request = ask("Tell a long story.", max_tokens=120)
    first = engine.stream(request)
    begun = [next(first) for _ in range(3)]
    inbox: SimpleQueue[Any] = SimpleQueue()
    joined = threading.Thread(target=lambda: inbox.put(list(engine.stream(request))))
    joined.start()
    rest = list(first)
    joined.join(20)

    assert text_of(inbox.get(timeout=20)) == text_of([*begun, *rest])


def test_a_task_that_is_cancelled_leaves_the_others_their_answer(engine: MlxEngine) -> None:
    request = ask("Some leave early.", max_tokens=100)

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(engine.async_twin.complete(request)) for _ in range(3)]
        while engine.running == 0:
            await asyncio.sleep(0)
        tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    gone, *others = asyncio.run(main())

    assert isinstance(gone, asyncio.CancelledError)
    assert {other.text for other in others} == {engine.complete(request).text}
