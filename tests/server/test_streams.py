"""Work that is given up when its caller goes away."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from starlette.requests import Request
from starlette.types import Message

from dspy_toolkit.server.errors import ApiError
from dspy_toolkit.server.streams import unless_gone


async def leaves() -> Message:
    return {"type": "http.disconnect"}


def request() -> Request:
    return Request({"type": "http"}, leaves)


def test_work_whose_caller_left_is_given_up_and_its_task_goes_on() -> None:
    async def served() -> int:
        with pytest.raises(ApiError, match="went away"):
            await unless_gone(request(), asyncio.Event().wait())
        return asyncio.current_task().cancelling()  # type: ignore[union-attr]

    assert asyncio.run(served()) == 0


def test_work_that_ends_well_although_its_caller_left_leaves_no_cancellation_behind() -> None:
    async def stubborn() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "done"

    async def served() -> tuple[str, int]:
        answer = await unless_gone(request(), stubborn())
        return answer, asyncio.current_task().cancelling()  # type: ignore[union-attr]

    assert asyncio.run(served()) == ("done", 0)
