"""What passes between a supervisor and its child: one JSON object a line, over a socket.

Nothing is ever unpickled. Requests, answers and stream events have DSPy's own JSON form.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from dataclasses import fields
from typing import Any

from dspy_toolkit import contract, events
from dspy_toolkit.contract import LM15Error, ServerError
from dspy_toolkit.events import EngineDied, Event, GenerationFinished, ModelLoaded

Frame = dict[str, Any]

_READ_BYTES = _WRITE_BYTES = 1 << 16
_ERRORS: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(contract).items()
    if isinstance(kind, type) and issubclass(kind, LM15Error)
}
_DETAILS = ("code", "provider", "provider_code", "status", "request_id", "retry_after", "feature")
PASSED_ON = {kind.__name__: kind for kind in (GenerationFinished, ModelLoaded, EngineDied)}
"""Events of a child that are emitted in its supervisor's process as well."""


class Link:
    """One end of the connection. Many threads may send, one reads; sending never blocks.

    What the other end does not take yet waits here; `flush` goes on with it.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._read = bytearray()

    def fileno(self) -> int:
        """For selectors."""
        return self._end.fileno()

    @property
    def behind(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._waiting)

    def put(self, frame: Frame | bytes) -> None:
        """Have a frame wait for the next `send` or `flush`, so that many go at once.

        Args:
            frame: as it is, or already as its line.

        Raises:
            TypeError, ValueError: the frame is no JSON.
        """
        self._waiting.append(frame if isinstance(frame, bytes) else line_of(frame))

    def send(self, frame: Frame | bytes) -> None:
        """Send a frame, or as much of it as goes now.

        Raises:
            OSError: the other end is gone. Otherwise as `put`.
        """
        self.put(frame)
        self.flush()

    def flush(self) -> None:
        """Send more of what waits.

        Raises:
            OSError: the other end is gone.
        """
        with self._lock:
            self._push()

    def receive(self) -> list[Frame]:
        """The frames that have come.

        Raises:
            ConnectionError: the other end is gone.
        """
        try:
            data = self._end.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionError("the other end is gone")
        self._read += data
        if b"\n" not in data:
            return []
        *lines, rest = self._read.split(b"\n")
        self._read = rest
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Hang up."""
        self._end.close()

    def _push(self) -> None:
        while data := self._next():
            sent = 0
            try:
                sent = self._end.send(data)
            except BlockingIOError:
                return
            finally:
                if sent < len(data):
                    self._waiting.appendleft(data[sent:])
            if sent < len(data):
                return

    def _next(self) -> bytes:
        parts, size = list[bytes](), 0
        while self._waiting and size < _WRITE_BYTES:
            parts.append(self._waiting.popleft())
            size += len(parts[-1])
        return b"".join(parts)


def line_of(frame: Frame) -> bytes:
    """A frame as it is sent.

    Raises:
        TypeError, ValueError: it is no JSON.
    """
    return json.dumps(frame, ensure_ascii=False).encode() + b"\n"


def error_frame(error: BaseException) -> Frame:
    """An error as JSON."""
    for kind in type(error).__mro__:
        if isinstance(error, LM15Error) and _ERRORS.get(kind.__name__) is kind:
            given = {key: getattr(error, key, None) for key in _DETAILS}
            details = {key: value for key, value in given.items() if value is not None}
            return {"kind": kind.__name__, "message": error.message, "details": details}
    told = " ".join(f"{type(error).__name__}: {error}".split())
    return {"kind": "ServerError", "message": f"the engine failed: {told}", "details": {}}


def error_of(frame: Frame) -> Exception:
    """The error that `error_frame` told of."""
    kind = _ERRORS.get(frame["kind"], ServerError)
    error: Exception
    try:
        error = kind(frame["message"], **frame["details"])
    except TypeError:
        error = kind(frame["message"])
    return error


def event_frame(event: Event) -> Frame | None:
    """An event as JSON; None for those that stay in the child."""
    name = type(event).__name__
    if name not in PASSED_ON:
        return None
    values = {each.name: getattr(event, each.name) for each in fields(event)}
    return {"event": name, "values": values}


def event_of(frame: Frame) -> events.Event:
    """The event that `event_frame` told of."""
    made: events.Event = PASSED_ON[frame["event"]](**frame["values"])
    return made
