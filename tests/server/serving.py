"""A real server on a free port of this machine, on a thread of its own, for tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai

from dspy_toolkit.deployment import Follower, following
from dspy_toolkit.server import (
    Catalog,
    CatalogHealth,
    Door,
    Gateway,
    Listening,
    PredictionCache,
    Server,
    Service,
    create_app,
)
from dspy_toolkit.server.running import run_quickly

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    catalog: Catalog
    app: Gateway
    server: Server
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def http(self, key: str | None = None, **more: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S, **more)

    def openai(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S
        )

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.server.stop)

    def on_loop(self, call: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE_S)


@contextmanager
def running(
    catalog: Catalog,
    door: Door | None = None,
    cache: PredictionCache | None = None,
    metrics: Callable[[], bytes] = lambda: b"",
    drain_s: float = 5.0,
    followers: Sequence[Follower] = (),
) -> Iterator[Running]:
    """Serve a catalog, and what deployments it follows, until the block ends."""
    health = CatalogHealth(catalog)
    app = create_app(Service(catalog, health.check, metrics, cache), door)
    server = Server(app, Listening(port=0, drain_s=drain_s))
    up: threading.Event = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    failures: list[BaseException] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        with server.bound():
            async with following(followers, poll_s=0.01):
                await server.run(up.set)

    def body() -> None:
        try:
            run_quickly(run())
        except BaseException as error:  # noqa: BLE001 - shown by the test that waits
            failures.append(error)
            up.set()

    thread = threading.Thread(target=body, name="server under test", daemon=True)
    thread.start()
    assert up.wait(PATIENCE_S), "the server did not come up"
    assert not failures, failures

    started = Running(catalog, app, server, loops[0], thread)
    try:
        yield started
    finally:
        if thread.is_alive():
            started.stop()
        thread.join(PATIENCE_S)
        assert not failures, failures
