"""The child: opens the engine, answers what its supervisor asks, and gives signs of life.

    python -m dspy_toolkit.resilience.supervised.child DESCRIPTOR

Everything happens on one event loop, so that a sign of life says that calls are served too. It
ends when its supervisor is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import socket
import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import psutil

from dspy_toolkit.contract import (
    Request,
    Response,
    StreamEvent,
    materialize_response,
    request_from_dict,
    response_to_dict,
    stream_event_to_dict,
)
from dspy_toolkit.events import EngineSampled, Event, subscribed
from dspy_toolkit.resilience.limits import is_token
from dspy_toolkit.resilience.supervised.opening import Opening
from dspy_toolkit.resilience.supervised.wire import Frame, Link, error_frame, event_frame

OUT_OF_MEMORY = 70
ENGINE_DEAD = 71
NOT_LOADED = 72

# As C++, Metal and CUDA word it.
_SAYS_SO = re.compile(r"bad_alloc|out of memory|insufficient memory", re.IGNORECASE)


class Child:
    """Serves one engine over one link.

    Args:
        engine: its `async_twin` is asked.
        beat_s: pause between signs of life.
    """

    def __init__(self, link: Link, engine: Any, beat_s: float) -> None:
        self._link = link
        self._engine = engine
        self._twin = engine.async_twin
        # Without counts of its own, an engine shows that it works by its tokens only.
        self._counts = hasattr(engine, "samples")
        self._beat_s = beat_s
        self._done = 0
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Answer until the supervisor is gone."""
        loop = asyncio.get_running_loop()
        self._send({"ready": abilities(self._engine)})
        loop.add_reader(self._link.fileno(), self._read)
        while True:
            self._send({"beat": self._beat()})
            await asyncio.sleep(self._beat_s)
            if not getattr(self._engine, "alive", True):
                _leave(ENGINE_DEAD)

    def _send(self, frame: Frame) -> None:
        try:
            self._link.send(frame)
        except OSError:
            _leave(0)

    def _beat(self) -> Frame:
        samples = self._engine.samples() if self._counts else ()
        own = [each for each in samples if isinstance(each, EngineSampled)]
        progress = self._done + sum(each.runs for each in own)
        resident = psutil.Process().memory_info().rss
        return {
            "progress": progress,
            "memory_bytes": max([resident, *(each.memory_bytes for each in own)]),
            "memory_limit_bytes": max((each.memory_limit_bytes for each in own), default=0),
            "sample": asdict(own[0]) if own else None,
        }

    def _read(self) -> None:
        try:
            frames = self._link.receive()
        except OSError:
            _leave(0)
        for frame in frames:
            if "cancel" in frame:
                task = self._tasks.get(frame["cancel"])
                if task is not None:
                    task.cancel()
            else:
                task = asyncio.ensure_future(self._answer(frame))
                self._tasks[frame["call"]] = task
                task.add_done_callback(partial(self._forget, frame["call"]))

    def _forget(self, call: int, task: asyncio.Task[None]) -> None:
        del self._tasks[call]

    async def _answer(self, frame: Frame) -> None:
        call = frame["call"]
        try:
            request = request_from_dict(frame["request"])
            if frame["streamed"]:
                async for event in self._twin.stream(request):
                    self._done += is_token(event)
                    self._send({"call": call, "event": stream_event_to_dict(event)})
                self._send({"call": call, "over": True})
            else:
                response = await self._whole(request)
                told = response_to_dict(response, include_provider_data=True)
                self._send({"call": call, "response": told})
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - raised again in the supervisor's process
            self._send({"call": call, "error": error_frame(error)})
            if out_of_memory(error):
                _leave(OUT_OF_MEMORY)
        self._done += 1

    async def _whole(self, request: Request) -> Response:
        if self._counts:
            response: Response = await self._twin.complete(request)
            return response
        events: list[StreamEvent] = []
        async for event in self._twin.stream(request):
            events.append(event)
            self._done += is_token(event)
        whole: Response = materialize_response(iter(events), request)
        return whole


def abilities(engine: Any) -> Frame:
    """What DSPy asks an engine about itself, as JSON."""
    names = [name for name in dir(engine) if name.startswith("supports_")]
    return {
        "supports": {name: getattr(engine, name) for name in names},
        "supported_params": sorted(engine.supported_params),
        "model_string": engine.model_string,
    }


def out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out; nothing in the process can be trusted after that."""
    while error is not None:
        refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
        if refused or isinstance(error, MemoryError) or _SAYS_SO.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _leave(code: int) -> None:
    # No clean-up: an engine that hangs would keep the process.
    os._exit(code)


def _first_frame(link: Link, end: socket.socket) -> Frame:
    end.setblocking(True)
    frames: list[Frame] = []
    while not frames:
        frames = link.receive()
    end.setblocking(False)
    return frames[0]


def main() -> None:
    """Open the engine that the supervisor names, and serve it."""
    # Ctrl-C is for the supervisor, which ends this process when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end = socket.socket(fileno=int(sys.argv[1]))
    link = Link(end)
    first = _first_frame(link, end)
    sys.path[:] = first["path"]

    def pass_on(event: Event) -> None:
        frame = event_frame(event)
        if frame is not None:
            with contextlib.suppress(OSError):
                link.send(frame)

    with subscribed(pass_on):
        try:
            engine = Opening(**first["opening"]).open()
        except Exception as error:  # noqa: BLE001 - raised again in the supervisor's process
            told = " ".join(str(error).split()) or type(error).__name__
            link.send({"not_loaded": told, "exit_code": getattr(error, "exit_code", 6)})
            _leave(NOT_LOADED)
        asyncio.run(Child(link, engine, first["beat_s"]).serve())


if __name__ == "__main__":
    main()
