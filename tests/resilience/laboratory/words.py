"""The laboratory's engine for a child: it answers as the laboratory's server does."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import AsyncGenerator
from typing import Any

from dspy_toolkit.contract import (
    Request,
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamEvent,
    StreamStartEvent,
    TextDelta,
    Usage,
)
from tests.resilience.laboratory.server import WORDS

PAUSE_S = 0.003
# What a call needs for itself: so much that the system is asked for it anew each time.
CALL_BYTES = 64 << 20


class Words:
    """Answers "the answer to call N", piece by piece."""

    supported_params: frozenset[str] = frozenset()
    model_string = "words"

    @property
    def async_twin(self) -> Words:
        return self

    async def complete(self, request: Request) -> Response:
        raise AssertionError("a child streams where an engine has no counts")

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        room = mmap.mmap(-1, CALL_BYTES)
        yield StreamStartEvent(model=request.model)
        for word in (*WORDS, str(request.messages[-1].text)):
            await asyncio.sleep(PAUSE_S)
            yield StreamDeltaEvent(delta=TextDelta(text=word, part_index=0))
        room.close()
        yield StreamEndEvent(finish_reason="stop", usage=Usage(input_tokens=5, output_tokens=5))


def words() -> Any:
    return Words()
