from __future__ import annotations

import asyncio
import errno
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.contract import ContextLengthError, RateLimitError, ServerError
from dspy_toolkit.resilience.errors import Full
from dspy_toolkit.resilience.supervised.child import Child, out_of_memory
from dspy_toolkit.resilience.supervised.wire import Link, error_frame, error_of
from tests.resilience import puppet


def caused_by(cause: BaseException) -> ServerError:
    error = ServerError("the engine failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("[metal::malloc] Attempting to allocate: Insufficient Memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (caused_by(RuntimeError("CUDA error: out of memory")), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (ServerError("the engine failed"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_failures(
    error: BaseException, expected: bool
) -> None:
    assert out_of_memory(error) is expected


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("slow down", retry_after=2.0, status=429),
        ContextLengthError("too long", provider="mlx"),
        Full("local", 1, 2),
    ],
)
def test_errors_cross_the_wire_as_the_contracts_own(error: Exception) -> None:
    again = error_of(error_frame(error))

    assert isinstance(error, type(again))
    assert str(again) == str(error)
    assert getattr(again, "retry_after", None) == getattr(error, "retry_after", None)


def test_an_error_the_contract_does_not_know_becomes_a_failure_of_the_engine() -> None:
    again = error_of(error_frame(KeyError("x\ny")))

    assert isinstance(again, ServerError)
    assert "KeyError" in str(again)
    assert "\n" not in str(again)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 90_000), st.booleans()), min_size=1, max_size=20))
def test_frames_arrive_whole_and_in_order_however_they_are_sent(
    frames: list[tuple[int, bool]],
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sender, reader = Link(ours), Link(theirs)
        for number, (size, waits) in enumerate(frames):
            (sender.put if waits else sender.send)({"number": number, "text": "x" * size})
        received: list[dict[str, object]] = []
        while len(received) < len(frames):
            sender.flush()
            received += reader.receive()

    assert [(each["number"], len(str(each["text"]))) for each in received] == [
        (number, size) for number, (size, _) in enumerate(frames)
    ]
    assert not sender.behind


def test_an_engine_that_is_closed_while_it_is_opened_does_not_stay_open() -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours)
    opening = {"function": "tests.resilience.puppet:puppet", "arguments": {}}
    link.send({"call": 7, "by": 1, "opening": opening})
    link.send({"close": 1})
    first = puppet.puppet()

    async def answer() -> dict[str, object]:
        child = Child(Link(theirs), {0: first}, beat_s=0.01)
        serving = asyncio.ensure_future(child.serve())
        try:
            while True:
                await asyncio.sleep(0)
                for frame in link.receive():
                    if "call" in frame:
                        return frame
        finally:
            asyncio.get_running_loop().remove_reader(theirs)
            serving.cancel()

    with ours, theirs:
        told = asyncio.run(answer())

    still_open = list(puppet.OPEN)
    puppet.OPEN.clear()
    assert "closed while it was opened" in str(told["error"])
    assert still_open == [first]
