"""The door: who may come in, how much they may bring, and how they leave when the house closes.

Plain ASGI around the whole application, so that nothing behind it sees a request that was refused.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_toolkit.events import RequestBroken, RequestRefused, emit
from dspy_toolkit.server.errors import ApiError, stopping, unexpected
from dspy_toolkit.server.keys import ADMIN, PROGRAMS, KeyRecord, Keys, RateLimits

MIB = 2**20
KEY, REQUEST_ID = "dspy_toolkit_key", "dspy_toolkit_request_id"
_LIVE, _READY = "/health/live", "/health/ready"
_ADMIN = ("/health/deep", "/metrics")


@dataclass(frozen=True)
class Door:
    """What is let in.

    Attributes:
        keys: needed by callers; None lets everybody in.
        keys_always: whether they are needed even before there is one. Else they are from the
            first one on, and stay needed when it ends: no revocation opens the door.
        hosts: names the server is called by, or None for any. On this machine alone it is a
            few, so that no page in a browser reaches it under a name of its own.
        body_bytes: largest body.
        body_s: how long a whole body may take.
        requests: most requests in work at once.
    """

    keys: Keys | None = None
    keys_always: bool = True
    hosts: frozenset[str] | None = None
    body_bytes: int = 4 * MIB
    body_s: float = 30.0
    requests: int = 256


class Gateway:
    """Stands before the application.

    Attributes:
        running: requests in work.
        closing: whether new ones are refused.
    """

    def __init__(self, app: ASGIApp, door: Door, limits: RateLimits | None = None) -> None:
        self._app = app
        self._door = door
        self._limits = limits or RateLimits()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._aborted = False
        self._asks_keys = door.keys_always
        self._chance = random.Random()
        self.closing = False

    @property
    def running(self) -> int:
        return len(self._tasks)

    def abort(self) -> None:
        """End what still runs with an error that says to ask again."""
        self._aborted = True
        for task in list(self._tasks):
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = _Reply(send, f"req_{self._chance.getrandbits(64):016x}")
        task = asyncio.current_task()
        scope.setdefault("state", {})[REQUEST_ID] = reply.request_id
        try:
            self._admit(scope)
            body = await self._body(scope, receive)
            if task is not None:
                self._tasks.add(task)
            await self._app(scope, _replayed(body, receive), reply)
        except ApiError as error:
            await reply.error(error, scope, receive)
        except asyncio.CancelledError:
            if not self._aborted:
                raise
            await reply.error(stopping(), scope, receive)
        except Exception as error:  # noqa: BLE001 - a caller gets an answer, whatever broke
            emit(RequestBroken(reply.request_id, type(error).__name__))
            await reply.error(unexpected(reply.request_id), scope, receive)
        finally:
            if task is not None:
                self._tasks.discard(task)

    def _admit(self, scope: Scope) -> None:
        path, headers = scope["path"], Headers(scope=scope)
        if self.closing and path != _LIVE:
            raise _refused("stopping", stopping())
        if path in (_LIVE, _READY):
            return
        hosts = self._door.hosts
        if hosts is not None and _host(headers.get("host", "")) not in hosts:
            raise _refused("host", ApiError(421, "this server is not called by this name"))
        if len(self._tasks) >= self._door.requests:
            error = ApiError(
                429, "too many requests are in work; ask again", code="full", retry_after_s=1.0
            )
            raise _refused("full", error)
        keys = self._door.keys
        if keys is not None:
            self._asks_keys = self._asks_keys or keys.any_active
            if self._asks_keys:
                scope["state"][KEY] = self._checked(path, headers, keys)

    def _checked(self, path: str, headers: Headers, keys: Keys) -> KeyRecord:
        kind, _, shown = headers.get("authorization", "").partition(" ")
        record = keys.known(shown.strip()) if kind.lower() == "bearer" else None
        if record is None:
            told = "send a valid key: the header authorization: Bearer KEY"
            raise _refused("key", ApiError(401, told, code="invalid_api_key"))
        if not record.allows(ADMIN if path in _ADMIN else PROGRAMS):
            raise _refused("scope", ApiError(403, "this key is not made for this", code="scope"))
        wait_s = self._limits.wait_s(record)
        if wait_s > 0:
            told = f"this key may ask {record.per_minute} times a minute"
            error = ApiError(429, told, code="rate_limit_exceeded", retry_after_s=wait_s)
            raise _refused("rate", error)
        return record

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return b""
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._door.body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._door.body_s):
                return await self._read(receive)
        except TimeoutError:
            told = f"the body did not come within {self._door.body_s:g} s"
            raise _refused("slow", ApiError(408, told, code="slow_body")) from None

    async def _read(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ApiError(499, "the caller went away")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._door.body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> ApiError:
        told = f"the body is larger than {self._door.body_bytes / MIB:g} MiB"
        return _refused("size", ApiError(413, told, code="body_too_large"))


class _Reply:
    """What is sent: every answer bears the request's id, and it begins once."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.request_id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        await self._send(message)

    async def error(self, error: ApiError, scope: Scope, receive: Receive) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.begun:
            return
        headers = dict(error.headers)
        if error.status in (408, 413):
            # The rest of the body is not read, so the connection cannot be used again.
            headers["connection"] = "close"
        await JSONResponse(error.body, error.status, headers)(scope, receive, self)


def needs_keys(address: str) -> bool:
    """Whether callers from other machines may reach an address."""
    if address == "localhost":
        return False
    try:
        return not ip_address(address).is_loopback
    except ValueError:
        return True


LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})


def _host(header: str) -> str:
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.rpartition(":")[0].lower() if ":" in header else header.lower()


def _refused(reason: str, error: ApiError) -> ApiError:
    emit(RequestRefused(reason))
    return error


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
