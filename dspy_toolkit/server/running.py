"""Running a server: from the open port to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from dspy_toolkit.errors import InvalidInput, ToolkitError
from dspy_toolkit.programs.shelf import ServedProgram
from dspy_toolkit.server.catalog import Catalog, ServedModel
from dspy_toolkit.server.gateway import Gateway, needs_keys
from dspy_toolkit.server.keys import Keys

_LAST_WORDS_S = 5.0
_POLL_S = 0.02


@dataclass(frozen=True)
class Awaited:
    """Something to serve that takes a while to open.

    Attributes:
        name: what callers will know it by.
        open: opens it; runs on a thread.
    """

    name: str
    open: Callable[[], ServedModel | ServedProgram]


@dataclass(frozen=True)
class Listening:
    """Where a server listens, and how it stops.

    Attributes:
        host, port: port 0 takes a free one.
        drain_s: how long running requests may take to end once it stops.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    drain_s: float = 30.0


class Server:
    """One process's HTTP server.

    Args:
        app: what answers.
        listening: where.
    """

    def __init__(self, app: Gateway, listening: Listening) -> None:
        self._app = app
        self._listening = listening
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=int(_LAST_WORDS_S),
        )
        self._server = _Quiet(config)
        self._stopping: asyncio.Task[None] | None = None
        self._patient = True
        self._door: socket.socket | None = None
        self.port = listening.port

    @contextlib.contextmanager
    def bound(self) -> Iterator[None]:
        """Hold the port while the block runs, so that one that is taken is told before all else.

        Raises:
            InvalidInput: nothing can listen there.
        """
        with _bound(self._listening) as self._door:
            self.port = int(self._door.getsockname()[1])
            yield

    async def run(self, up: Callable[[], None] | None = None) -> None:
        """Serve, inside of `bound`, until `stop` is called or a signal says so.

        Args:
            up: called once requests are taken.
        """
        assert self._door is not None, "the port is not bound"
        serving = asyncio.create_task(self._server.serve(sockets=[self._door]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(_POLL_S)
        if up is not None and not serving.done():
            up()
        await serving
        if self._stopping is not None:
            await self._stopping

    def stop(self) -> None:
        """Take no new requests, let the running ones end, then go. Call it on the loop."""
        if self._stopping is None:
            self._app.closing = True
            self._stopping = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._listening.drain_s):
                while self._app.running and self._patient:
                    await asyncio.sleep(_POLL_S)
        self._app.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                while self._app.running:
                    await asyncio.sleep(_POLL_S)
        self._server.should_exit = True

    @contextlib.contextmanager
    def on_signals(self, told: Callable[[int], None] = lambda running: None) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT while the block runs.

        The second one ends the requests that still run, with an error that says to try again.

        Args:
            told: called at the first, with how many requests run.
        """
        loop = asyncio.get_running_loop()

        def heard() -> None:
            if self._stopping is None:
                told(self._app.running)
                self.stop()
            else:
                self._patient = False

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, heard)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def run_quickly(serving: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run` on uvloop where it is installed: a request takes less time there."""
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(serving)


@asynccontextmanager
async def filled(
    catalog: Catalog, awaited: Sequence[Awaited], opened: Callable[[str, str | None], None]
) -> AsyncIterator[None]:
    """Open what is to be served, one after the other, while the block runs.

    Args:
        catalog: where it goes.
        awaited: what there is to open.
        opened: told each name once it answers, or why it cannot be opened.
    """

    async def fill() -> None:
        for each in awaited:
            try:
                found = await asyncio.to_thread(each.open)
            except ToolkitError as error:
                opened(each.name, str(error))
                continue
            if isinstance(found, ServedModel):
                catalog.models[each.name] = found
            else:
                catalog.shelf.put(found)
            opened(each.name, None)

    filling = asyncio.create_task(fill())
    try:
        yield
    finally:
        filling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await filling


def keys_for(host: str, keys: Keys, open_to_all: bool) -> Keys | None:
    """The keys to ask callers for, or None where they are asked for none.

    Raises:
        InvalidInput: other machines could call without a key, or there is no key yet.
    """
    if not needs_keys(host):
        return None if open_to_all else keys
    if open_to_all:
        raise InvalidInput(
            f"{host} can be reached from other machines, so callers need keys; leave out "
            "--no-keys, or listen on 127.0.0.1"
        )
    if not keys.any_active:
        raise InvalidInput(
            f"{host} can be reached from other machines and there is no key yet; make one with "
            "`dspy-tk keys create NAME`, or listen on 127.0.0.1"
        )
    return keys


class _Quiet(uvicorn.Server):
    """Leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _bound(listening: Listening) -> Iterator[socket.socket]:
    host, port = listening.host, listening.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, proto, _, address = found[0]
        door = socket.socket(family, kind, proto)
    except OSError as error:
        raise InvalidInput(f"{host} is no address of this machine ({error.strerror})") from None
    with door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(address)
        except OSError as error:
            raise InvalidInput(
                f"nothing can listen on {host}:{port} ({error.strerror}); "
                "choose another --port, 0 for any that is free"
            ) from None
        yield door
