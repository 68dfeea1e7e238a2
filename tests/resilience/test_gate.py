from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.resilience import BulkheadPolicy
from dspy_toolkit.resilience.errors import Full
from dspy_toolkit.resilience.gate import Gate


@given(
    st.integers(1, 3),
    st.integers(0, 3),
    st.lists(st.sampled_from(["ask", "release", "leave", "cancel"]), max_size=60),
)
def test_places_are_never_lost_nor_given_twice(most: int, line: int, steps: list[str]) -> None:
    gate = Gate("engine", BulkheadPolicy(max_concurrent=most, max_queued=line))
    running, waiting = 0, list[Future[None]]()
    for step in steps:
        if step == "ask":
            try:
                ticket = gate.ask()
            except Full:
                assert running == most
                assert len(waiting) == line
                continue
            if ticket is None:
                running += 1
            else:
                waiting.append(ticket)
        elif step == "release" and running:
            gate.release()
            running -= 1
        elif step == "leave" and waiting:
            gate.leave(waiting.pop())
        elif step == "cancel" and waiting:
            left = waiting.pop()
            left.cancel()
            gate.leave(left)
        granted = [ticket for ticket in waiting if ticket.done()]
        running += len(granted)
        waiting = [ticket for ticket in waiting if not ticket.done()]

        assert gate.running == running
        assert gate.queued == len(waiting)
        assert running == most or not waiting


def test_who_waits_longest_is_next() -> None:
    gate = Gate("engine", BulkheadPolicy(max_concurrent=1, max_queued=2))
    gate.ask()
    first, second = gate.ask(), gate.ask()
    assert first is not None
    assert second is not None
    gate.release()

    assert (first.done(), second.done()) == (True, False)


def test_a_coroutine_that_is_cancelled_in_the_line_leaves_its_place_to_a_thread() -> None:
    gate = Gate("engine", BulkheadPolicy(max_concurrent=1, max_queued=2))
    gate.ask()
    asyncs, threads = gate.ask(), gate.ask()
    assert asyncs is not None
    assert threads is not None

    async def wait_and_be_cancelled() -> None:
        waiting = asyncio.wrap_future(asyncs)
        asyncio.get_running_loop().call_soon(waiting.cancel)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(wait_and_be_cancelled())
    with ThreadPoolExecutor(1) as other:
        result = other.submit(threads.result, 5)
        gate.release()

        assert result.result(timeout=5) is None


def test_a_full_line_says_how_full() -> None:
    gate = Gate("engine", BulkheadPolicy(max_concurrent=1, max_queued=1))
    gate.ask()
    gate.ask()

    with pytest.raises(Full, match="1 calls running, 1 waiting"):
        gate.ask()
    assert gate.turns_ahead == 2.0
