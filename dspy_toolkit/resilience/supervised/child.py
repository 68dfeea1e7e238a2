"""The child: opens the engines, answers what its supervisor asks, and gives signs of life.

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
import select
import signal
import socket
import sys
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import psutil

from dspy_toolkit.contract import (
    Request,
    Response,
    ServerError,
    StreamEvent,
    UnsupportedFeatureError,
    materialize_response,
    request_from_dict,
    response_to_dict,
    stream_event_to_dict,
)
from dspy_toolkit.events import EngineSampled, Event, GenerationFinished, subscribed
from dspy_toolkit.resilience.limits import is_token
from dspy_toolkit.resilience.supervised.opening import Opening
from dspy_toolkit.resilience.supervised.wire import Frame, Link, error_frame, event_frame

OUT_OF_MEMORY = 70
ENGINE_DEAD = 71
NOT_LOADED = 72

# As C++, Metal and CUDA word it.
_SAYS_SO = re.compile(r"bad_alloc|out of memory|insufficient memory", re.IGNORECASE)


class Child:
    """Serves engines over one link.

    Args:
        engines: by number; their `async_twin` is asked. Those that have counts have them in common.
        beat_s: pause between signs of life.
    """

    def __init__(self, link: Link, engines: Mapping[int, Any], beat_s: float) -> None:
        self._link = link
        self._engines = dict(engines)
        self._beat_s = beat_s
        self._done = 0
        self._tasks: dict[int | str, asyncio.Task[None]] = {}
        self._wanted: set[int] = set()
        self._flushing = False

    async def serve(self) -> None:
        """Answer until the supervisor is gone."""
        loop = asyncio.get_running_loop()
        self._send({"ready": abilities(next(iter(self._engines.values())))})
        loop.add_reader(self._link.fileno(), self._read)
        while True:
            self._send({"beat": self._beat()})
            await asyncio.sleep(self._beat_s)
            if not all(getattr(each, "alive", True) for each in self._engines.values()):
                self._flush()
                _leave(ENGINE_DEAD)

    def _send(self, frame: Frame) -> None:
        # Rows end and go on together: what is said in one round of the loop goes in one piece.
        self._link.put(frame)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        try:
            self._link.flush()
        except OSError:
            _leave(0)

    def _beat(self) -> Frame:
        counting = next(filter(_counts, self._engines.values()), None)
        samples = counting.samples() if counting is not None else ()
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
            if "call" in frame:
                self._start(frame["call"], self._answer(frame))
            elif "cancel" in frame:
                task = self._tasks.get(frame["cancel"])
                if task is not None:
                    task.cancel()
            elif "close" in frame:
                self._start(f"close {frame['close']}", self._close(frame["close"]))
            else:
                self._start("end", self._end())

    def _start(self, number: int | str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks[number] = task
        task.add_done_callback(partial(self._forget, number))

    def _forget(self, number: int | str, task: asyncio.Task[None]) -> None:
        del self._tasks[number]

    async def _answer(self, frame: Frame) -> None:
        call, by = frame["call"], frame["by"]
        try:
            if "opening" in frame:
                told = await self._opened(by, Opening(**frame["opening"]))
            elif "embed" in frame:
                told = await self._embedded(by, frame["embed"])
            elif frame["streamed"]:
                async for event in self._twin(by).stream(request_from_dict(frame["request"])):
                    self._done += is_token(event)
                    self._send({"call": call, "event": stream_event_to_dict(event)})
                told = {"over": True}
            else:
                response = await self._whole(by, request_from_dict(frame["request"]))
                told = {"response": response_to_dict(response, include_provider_data=True)}
            self._send({"call": call, **told})
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 - raised again in the supervisor's process
            self._send({"call": call, "error": error_frame(error)})
            if out_of_memory(error):
                self._flush()
                _leave(OUT_OF_MEMORY)
        self._done += 1

    def _twin(self, by: int) -> Any:
        if by not in self._engines:
            raise ServerError("the engine could not be opened again in a new process")
        return self._engines[by].async_twin

    async def _opened(self, by: int, opening: Opening) -> Frame:
        if by not in self._engines:
            self._wanted.add(by)
            try:
                engine = await asyncio.to_thread(opening.open)
            except Exception as error:
                if out_of_memory(error):
                    raise
                return not_loaded(error)
            if by not in self._wanted:
                await engine.async_twin.aclose()
                raise ServerError("the engine was closed while it was opened")
            self._engines[by] = engine
        return {"opened": abilities(self._engines[by])}

    async def _embedded(self, by: int, text: str) -> Frame:
        embed = getattr(self._twin(by), "embed", None)
        if embed is None:
            raise UnsupportedFeatureError("this engine offers no embeddings")
        vector, tokens = await embed(text)
        return {"embedded": vector, "tokens": tokens}

    async def _close(self, by: int) -> None:
        self._wanted.discard(by)
        engine = self._engines.pop(by, None)
        if engine is not None:
            await engine.async_twin.aclose()

    async def _end(self) -> None:
        try:
            for engine in self._engines.values():
                await engine.async_twin.aclose()
        finally:
            self._flush()
            _leave(0)

    async def _whole(self, by: int, request: Request) -> Response:
        twin = self._twin(by)
        # Without counts of its own, an engine shows that it works by its tokens only.
        if _counts(self._engines[by]):
            response: Response = await twin.complete(request)
            return response
        events: list[StreamEvent] = []
        async for event in twin.stream(request):
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


def not_loaded(error: Exception) -> Frame:
    """Why an engine could not be opened."""
    told = " ".join(str(error).split()) or type(error).__name__
    return {"not_loaded": told, "exit_code": getattr(error, "exit_code", 6)}


def out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out; nothing in the process can be trusted after that."""
    while error is not None:
        refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
        if refused or isinstance(error, MemoryError) or _SAYS_SO.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _counts(engine: Any) -> bool:
    return hasattr(engine, "samples")


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


def _end_with_supervisor(end: socket.socket) -> None:
    # Only this sees it while a model is loaded or the loop is held up.
    watch = select.poll()
    watch.register(end, 0)
    watch.poll()
    _leave(0)


def _open_all(openings: Mapping[str, Frame], link: Link) -> dict[int, Any]:
    engines: dict[int, Any] = {}
    for number, opening in openings.items():
        try:
            engines[int(number)] = Opening(**opening).open()
        except Exception as error:  # noqa: BLE001 - raised again in the supervisor's process
            # What was open before and cannot be any more fails by itself, not with the rest.
            if not engines:
                link.send(not_loaded(error))
                _leave(NOT_LOADED)
    return engines


def main() -> None:
    """Open the engines that the supervisor names, and serve them."""
    # Ctrl-C and the end of a service are for the supervisor, which ends this process when its
    # own work is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end = socket.socket(fileno=int(sys.argv[1]))
    link = Link(end)
    first = _first_frame(link, end)
    threading.Thread(target=_end_with_supervisor, args=(end,), daemon=True).start()
    sys.path[:] = first["path"]

    def pass_on(event: Event) -> None:
        frame = event_frame(event)
        if frame is None:
            return
        link.put(frame)
        if not isinstance(event, GenerationFinished):  # which the answer takes along
            with contextlib.suppress(OSError):
                link.flush()

    with subscribed(pass_on):
        engines = _open_all(first["openings"], link)
        asyncio.run(Child(link, engines, first["beat_s"]).serve())


if __name__ == "__main__":
    main()
