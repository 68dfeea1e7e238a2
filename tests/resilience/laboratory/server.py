"""A real HTTP server on loopback that speaks OpenAI's chat format and misbehaves on command."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Self

WORDS = ("the ", "answer ", "to ", "call ")
LOOK_S = 0.01


class Connection:
    """What a behaviour has in its hands: one request and the way back."""

    def __init__(
        self,
        body: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        drip_s: float,
    ) -> None:
        self.call = str(body["messages"][-1]["content"])
        self.streamed = bool(body.get("stream"))
        self.drip_s = drip_s
        self._reader = reader
        self._writer = writer

    @property
    def abandoned(self) -> bool:
        """Whether the caller has hung up."""
        return self._reader.at_eof()

    async def head(self, status: str, *headers: str) -> None:
        """Send the head of a chunked reply."""
        kind = "text/event-stream" if self.streamed and status.startswith("200") else "json"
        lines = [f"HTTP/1.1 {status}", f"Content-Type: application/{kind}", *headers]
        await self.send("\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]))

    async def chunk(self, text: str) -> None:
        """Send a chunk of the body; an empty one ends it."""
        await self.send(f"{len(text.encode()):x}\r\n{text}\r\n")

    async def send(self, text: str) -> None:
        """Send as it is."""
        self._writer.write(text.encode())
        await self._writer.drain()

    async def event(self, delta: dict[str, Any], reason: str | None = None) -> None:
        """Send one piece of a streamed answer."""
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        await self.chunk(f"data: {json.dumps({**self._shape('chunk'), 'choices': [choice]})}\n\n")

    async def pieces(self, count: int, pause_s: float = 0.0) -> None:
        """Send the first pieces of the answer."""
        for word in [*WORDS, self.call][:count]:
            await asyncio.sleep(pause_s)
            await self.event({"content": word})

    def whole(self) -> str:
        """The answer in one piece, as JSON."""
        message = {"role": "assistant", "content": "".join(WORDS) + self.call}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        return json.dumps({**self._shape("completion"), "choices": [choice], "usage": usage})

    async def fail(self, status: str, *headers: str) -> None:
        """Reply with an error in the format's shape."""
        await self.head(status, *headers)
        await self.chunk(json.dumps({"error": {"message": status, "type": "fault"}}))
        await self.chunk("")

    def _shape(self, kind: str) -> dict[str, Any]:
        return {"id": "x", "object": f"chat.{kind}", "created": 0, "model": "lab"}


class Cut(Exception):
    """The server drops the connection without a word."""


async def ok(reply: Connection) -> None:
    """Answer."""
    await drip(reply, 0.0)


async def drip(reply: Connection, pause_s: float | None = None) -> None:
    """Answer slowly, piece by piece."""
    pause_s = reply.drip_s if pause_s is None else pause_s
    if not reply.streamed:
        await asyncio.sleep(pause_s * (len(WORDS) + 1))
        await reply.head("200 OK")
        await reply.chunk(reply.whole())
    else:
        await reply.head("200 OK")
        await reply.pieces(len(WORDS) + 1, pause_s)
        await reply.event({}, "stop")
        await reply.chunk("data: [DONE]\n\n")
    await reply.chunk("")


async def rate_limit(reply: Connection) -> None:
    """429 with retry-after."""
    await reply.fail("429 Too Many Requests", "Retry-After: 0.01")


async def server_error(reply: Connection) -> None:
    """500."""
    await reply.fail("500 Internal Server Error")


async def stall(reply: Connection) -> None:
    """Send the headers, then nothing, ever."""
    await reply.head("200 OK")
    while not reply.abandoned:
        await asyncio.sleep(LOOK_S)
    raise Cut


async def cut(reply: Connection) -> None:
    """Drop the connection in the middle of the answer."""
    await reply.head("200 OK")
    if reply.streamed:
        await reply.pieces(2)
    else:
        await reply.chunk(reply.whole()[:40])
    raise Cut


async def hang_up(reply: Connection) -> None:
    """Drop the connection before a word."""
    raise Cut


async def bad_json(reply: Connection) -> None:
    """Say 200 and send what is no JSON."""
    await reply.head("200 OK")
    await reply.chunk('data: {"choices": [{"delta"\n\n' if reply.streamed else '{"choices": [')
    await reply.chunk("")


async def wrong_shape(reply: Connection) -> None:
    """Say 200 and send JSON of another shape."""
    await reply.head("200 OK")
    text = json.dumps({"choices": "none", "usage": []})
    await reply.chunk(f"data: {text}\n\n" if reply.streamed else text)
    await reply.chunk("")


async def dead(reply: Connection) -> None:
    """Look healthy and send signs of life, but never a token."""
    await reply.head("200 OK")
    while not reply.abandoned:
        await reply.chunk(": still here\n\n" if reply.streamed else " ")
        await asyncio.sleep(LOOK_S)
    raise Cut


Behaviour = Callable[[Connection], Coroutine[Any, Any, None]]
BEHAVIOURS: dict[str, Behaviour] = {
    each.__name__: each
    for each in (
        ok,
        drip,
        rate_limit,
        server_error,
        stall,
        cut,
        hang_up,
        bad_json,
        wrong_shape,
        dead,
    )
}


class FaultServer:
    """The server, on a thread and an ephemeral port, while the block runs.

    `GET /health` always says ok, whatever the generator does.

    Args:
        mix: weights of the behaviours by name.
        seed: start of the choice among them.
        drip_s: pause between the pieces of a slow answer.
    """

    def __init__(self, mix: Mapping[str, float], seed: int = 0, drip_s: float = 0.002) -> None:
        self.requests: Counter[str] = Counter()
        self._drip_s = drip_s
        self._chance = random.Random(seed)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault server", daemon=True)
        self.behave(mix)

    def behave(self, mix: Mapping[str, float]) -> None:
        """Change what it does from the next request on."""
        self._names, self._weights = zip(*mix.items(), strict=True)

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set_result, None)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped
        server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._reply(reader, writer):
                pass
        except (Cut, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            # Cut connections must not linger, or the machine runs out of ports.
            writer.transport.abort()

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
            return True
        lengths = [
            line.partition(":")[2]
            for line in head.splitlines()
            if line.lower().startswith("content-length:")
        ]
        body = json.loads(await reader.readexactly(int(lengths[0])))
        reply = Connection(body, reader, writer, self._drip_s)
        self.requests[reply.call] += 1
        (name,) = self._chance.choices(self._names, self._weights)
        await BEHAVIOURS[name](reply)
        return True
