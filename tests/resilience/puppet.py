"""An engine for children under test: the question says what becomes of its process."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

from dspy_toolkit.contract import (
    InvalidRequestError,
    Message,
    RateLimitError,
    Request,
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamEvent,
    StreamStartEvent,
    TextDelta,
    Usage,
)
from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.errors import NotFound

HELD: list[bytearray] = []
OPEN: list[Puppet] = []


class Puppet:
    """Obeys: `die`, `hang`, `block`, `eat MIB`, `refuse`, `limit`, `pause S`; else it answers.

    To `count` it says how many puppets are open in its process.
    `die-once FILE` ends the process the first time only, and `dribble N` streams N pieces and
    then hangs.
    """

    supports_function_calling = False
    supports_reasoning = False
    supports_response_schema = False
    supported_params = frozenset({"temperature"})
    model_string = "puppet"

    def __init__(self) -> None:
        OPEN.append(self)

    @property
    def async_twin(self) -> Puppet:
        return self

    async def complete(self, request: Request) -> Response:
        raise AssertionError("a child streams where an engine has no counts")

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        text = str(request.messages[-1].text)
        word, _, rest = text.partition(" ")
        yield StreamStartEvent(model=request.model)
        if word == "dribble":
            for number in range(int(rest)):
                yield delta(f"{number} ")
            await asyncio.Event().wait()
        await obey(word, rest)
        pieces = (f"{len(OPEN)} open",) if word == "count" else ("you said: ", text)
        for piece in pieces:
            yield delta(piece)
        yield StreamEndEvent(finish_reason="stop", usage=Usage(input_tokens=3, output_tokens=2))

    async def aclose(self) -> None:
        OPEN.remove(self)


async def obey(word: str, rest: str) -> None:
    if word == "die":
        os._exit(9)
    if word == "die-once" and not os.path.exists(rest):
        open(rest, "w").close()
        os._exit(9)
    if word == "hang":
        await asyncio.Event().wait()
    if word == "block":
        time.sleep(3600)
    if word == "eat":
        HELD.append(bytearray(os.urandom(1) * (int(rest) << 20)))
    if word == "exhaust":
        raise MemoryError
    if word == "pause":
        await asyncio.sleep(float(rest))
    if word == "refuse":
        raise InvalidRequestError("not this", provider="puppet")
    if word == "limit":
        raise RateLimitError("slow down", retry_after=1.5)


def delta(text: str) -> StreamDeltaEvent:
    return StreamDeltaEvent(delta=TextDelta(text=text, part_index=0))


def ask(text: str) -> Request:
    return Request(model="m", messages=(Message.user(text),))


def puppet() -> Puppet:
    return Puppet()


def slow(seconds: float) -> Puppet:
    time.sleep(seconds)
    return Puppet()


def missing() -> Puppet:
    raise NotFound("model 'nowhere' does not exist; check the path")


def never_ready() -> Puppet:
    # A parent that waits for it learns whom it waits for.
    print(os.getpid(), file=sys.stderr, flush=True)  # noqa: T201 - that is all there is to hear
    time.sleep(3600)
    return Puppet()


def broken() -> Puppet:
    os._exit(3)


def scripted() -> Any:
    return ScriptedEngine(lambda text: f"You asked:\n{text[-40:]}\nI know nothing.", context=500)
