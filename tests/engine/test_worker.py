from __future__ import annotations

import os
import threading
import time
from queue import SimpleQueue
from typing import Any

import pytest

from dspy_toolkit.engine.output import Markers, OutputReader, text_of
from dspy_toolkit.engine.refusals import EngineStopped, QueueFull, TooLate
from dspy_toolkit.engine.sampling import Sampling
from dspy_toolkit.engine.sequence import Drawn, Failed, Finished, Message, Sequence
from dspy_toolkit.engine.stats import Counts
from dspy_toolkit.engine.worker import Worker
from dspy_toolkit.events import EngineDied, Event, subscribed

PATIENCE_S = 20.0
EOS = 0


class Letters:
    """A detokenizer whose tokens are code points."""

    last_segment = ""

    def add_token(self, token: int) -> None:
        self.last_segment = chr(token)

    def finalize(self) -> None:
        self.last_segment = ""


class Echo:
    """A batch without a model: each row says its prompt backwards, a letter a step.

    A prompt with "!" makes every step fail that it is part of, one with "?" is refused at once,
    and one with "~" never ends. With `gate`, a step waits until it is set.
    """

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.rows: list[Sequence] = []
        self.largest = 0
        self.counts = Counts()
        self.closed = False
        self._gate = gate

    @property
    def waiting(self) -> int:
        return 0

    def add(self, sequence: Sequence) -> None:
        if ord("?") in sequence.prompt:
            raise ValueError("refused")
        self.rows.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        self.rows.remove(sequence)

    def step(self) -> list[tuple[Sequence, Drawn]]:
        if self._gate is not None:
            self._gate.wait(PATIENCE_S)
        self.largest = max(self.largest, len(self.rows))
        if any(ord("!") in row.prompt for row in self.rows):
            raise RuntimeError("out of memory")
        if any(ord("#") in row.prompt for row in self.rows):
            raise SystemExit("the machine is on fire")
        return [(row, Drawn(self._next(row))) for row in list(self.rows)]

    def embed(self, tokens: list[int]) -> list[float]:
        return [float(token) for token in tokens]

    def reset(self) -> None:
        self.rows = []

    def close(self) -> None:
        self.closed = True

    def _next(self, row: Sequence) -> int:
        if ord("~") in row.prompt:
            return ord("~")
        backwards = [*reversed(row.prompt), EOS]
        return backwards[len(row.answer)]


def start(rows: Echo, queue: int = 100) -> Worker[str]:
    return Worker(lambda: ("facts", rows), "echo", queue)


def say(text: str, sink: Any, **fields: Any) -> Sequence:
    return Sequence(
        prompt=[ord(letter) for letter in text],
        sampling=Sampling(),
        max_tokens=fields.pop("max_tokens", 100),
        eos=frozenset({EOS}),
        reader=OutputReader(Letters(), Markers()),
        sink=sink,
        **fields,
    )


def outcome(inbox: SimpleQueue[Message]) -> str:
    message = inbox.get(timeout=PATIENCE_S)
    if isinstance(message, Failed):
        return f"failed: {message.error}"
    assert isinstance(message, Finished)
    return text_of(message.pieces)


def submit(worker: Worker[str], text: str, **fields: Any) -> SimpleQueue[Message]:
    inbox: SimpleQueue[Message] = SimpleQueue()
    worker.submit(say(text, inbox.put, **fields))
    return inbox


def test_what_load_raises_reaches_whoever_opens() -> None:
    def load() -> tuple[str, Echo]:
        raise FileNotFoundError("no weights")

    with pytest.raises(FileNotFoundError, match="no weights"):
        Worker(load, "broken")


def test_calls_that_wait_together_run_together() -> None:
    gate = threading.Event()
    rows = Echo(gate)
    worker = start(rows)
    inboxes = [submit(worker, text) for text in ("abc", "de", "f")]
    gate.set()

    assert [outcome(inbox) for inbox in inboxes] == ["cba", "ed", "f"]
    assert rows.largest >= 2
    worker.close()


def test_a_row_that_fails_fails_its_caller_alone() -> None:
    gate = threading.Event()
    worker = start(Echo(gate))
    inboxes = [submit(worker, text) for text in ("abc", "no!", "de")]
    gate.set()

    assert [outcome(inbox) for inbox in inboxes] == ["cba", "failed: out of memory", "ed"]
    assert outcome(submit(worker, "xy")) == "yx"
    worker.close()


def test_a_row_that_cannot_be_added_fails_its_caller_alone() -> None:
    worker = start(Echo())
    inboxes = [submit(worker, text) for text in ("why?", "ab")]

    assert [outcome(inbox) for inbox in inboxes] == ["failed: refused", "ba"]
    worker.close()


def test_when_the_thread_dies_all_callers_hear_why_and_later_calls_fail_at_once() -> None:
    gate = threading.Event()
    worker = start(Echo(gate))
    inboxes = [submit(worker, text) for text in ("#", "abc")]
    heard: list[Event] = []
    with subscribed(heard.append):
        gate.set()
        said = [outcome(inbox) for inbox in inboxes]
        worker.close()
    reason = "the engine thread died: SystemExit: the machine is on fire"

    assert said == [f"failed: {reason}"] * 2
    assert heard == [EngineDied("echo", reason)]
    assert not worker.alive
    with pytest.raises(EngineStopped, match="on fire"):
        submit(worker, "abc")


def test_closing_fails_the_calls_in_flight_and_frees_the_model() -> None:
    rows = Echo()
    worker = start(rows)
    inbox = submit(worker, "~", max_tokens=1 << 40)
    worker.close()

    assert outcome(inbox) == "failed: the engine is closed"
    assert rows.closed
    with pytest.raises(EngineStopped, match="closed"):
        submit(worker, "abc")


def test_a_cancelled_call_frees_its_row() -> None:
    rows = Echo()
    worker = start(rows)
    inbox: SimpleQueue[Message] = SimpleQueue()
    endless = say("~", inbox.put, max_tokens=1 << 40, streaming=True)
    worker.submit(endless)
    inbox.get(timeout=PATIENCE_S)
    worker.cancel(endless)

    assert outcome(submit(worker, "ab")) == "ba"
    assert rows.rows == []
    worker.close()


def test_a_call_cancelled_before_it_ran_never_runs() -> None:
    gate = threading.Event()
    rows = Echo(gate)
    worker = start(rows)
    first = submit(worker, "ab")
    inbox: SimpleQueue[Message] = SimpleQueue()
    unwanted = say("cd", inbox.put)
    worker.submit(unwanted)
    worker.cancel(unwanted)
    gate.set()

    assert outcome(first) == "ba"
    assert outcome(submit(worker, "e")) == "e"
    assert unwanted.answer == []
    worker.close()


def test_the_length_limit_is_kept() -> None:
    worker = start(Echo())
    message = submit(worker, "abcdef", max_tokens=2).get(timeout=PATIENCE_S)

    assert isinstance(message, Finished)
    assert (message.reason, message.output_tokens, text_of(message.pieces)) == ("length", 2, "fe")
    worker.close()


def test_another_process_is_told_to_open_its_own() -> None:
    worker = start(Echo())
    worker._process = os.getpid() + 1

    with pytest.raises(EngineStopped, match="another process"):
        submit(worker, "ab")

    worker._process = os.getpid()
    worker.close()


def test_a_question_is_answered_on_the_thread_and_fails_alone() -> None:
    rows = Echo()
    worker = start(rows)
    names = worker.ask(lambda batch: threading.current_thread().name)
    broken = worker.ask(lambda batch: 1 / 0)
    vector = worker.ask(lambda batch: batch.embed([1, 2]))

    assert names.result(PATIENCE_S) == "dspy-tk engine echo"
    with pytest.raises(ZeroDivisionError):
        broken.result(PATIENCE_S)
    assert vector.result(PATIENCE_S) == [1.0, 2.0]
    worker.close()
    with pytest.raises(EngineStopped):
        worker.ask(lambda batch: None)


def test_one_call_more_than_the_queue_takes_is_refused_and_the_others_are_answered() -> None:
    gate, reached = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        gate.wait(PATIENCE_S)

    worker = start(Echo(), queue=2)
    worker.post(hold)
    reached.wait(PATIENCE_S)
    inboxes = [submit(worker, text) for text in ("ab", "cd", "ef")]
    with pytest.raises(QueueFull, match="3 calls wait for this model and the queue takes 2"):
        submit(worker, "gh")
    gate.set()
    said = [outcome(inbox) for inbox in inboxes]
    late = outcome(submit(worker, "ij"))
    refused = worker.counts.refused
    worker.close()

    assert said == ["ba", "dc", "fe"]
    assert (late, refused) == ("ji", 1)


def test_a_call_whose_caller_has_stopped_waiting_is_dropped_and_frees_its_row() -> None:
    rows = Echo()
    worker = start(rows)
    endless = submit(worker, "~", gives_up_at=time.monotonic())
    message = endless.get(timeout=PATIENCE_S)
    other = outcome(submit(worker, "ab", gives_up_at=time.monotonic() + PATIENCE_S))
    worker.close()

    assert isinstance(message, Failed)
    assert isinstance(message.error, TooLate)
    assert (other, rows.rows, worker.counts.given_up) == ("ba", [], 1)
