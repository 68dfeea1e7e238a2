"""The calls a supervised engine holds, whichever process has them now."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dspy_toolkit.contract import InvalidRequestError, ServerError
from dspy_toolkit.errors import EngineError
from dspy_toolkit.resilience.supervised.wire import Frame, line_of

Sink = Callable[[Frame | Exception], None]


class EngineRestarted(ServerError, EngineError):  # type: ignore[misc]  # DSPy ships no types
    """The process that had a call is gone; the same call may succeed when made again."""

    retryable = True


def starts(frame: Frame) -> bool:
    """Whether a frame is a stream's first event, which holds nothing of the answer yet."""
    return "event" in frame and frame["event"]["type"] == "start"


@dataclass(eq=False)
class HeldCall:
    """One call.

    Attributes:
        line: what was asked, and of which of the process's engines, as it is sent.
        opens: whether it is for an engine to open, and not for an answer.
        sink: hears the frames of its answer, or the error that ends it, on any thread.
        sent: whether the process of now has it.
        begun: whether the caller has heard a piece of the answer.
        replays: how often it was made again.
    """

    number: int
    line: bytes
    sink: Sink
    opens: bool = False
    sent: bool = False
    begun: bool = False
    replays: int = 0


@dataclass
class HeldCalls:
    """All calls without an end. Threads and the supervisor share them."""

    _calls: dict[int, HeldCall] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def made(self, order: Frame, sink: Sink) -> HeldCall:
        """A new call, which nobody holds yet.

        Raises:
            InvalidRequestError: the order cannot be written as JSON.
        """
        number = next(self._numbers)
        try:
            line = line_of({"call": number, **order})
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"the request cannot be sent to the engine's process as JSON in UTF-8: {error}"
            ) from None
        return HeldCall(number, line, sink, "opening" in order)

    def hold(self, call: HeldCall) -> None:
        """Hold it until it ends; the lock must be held."""
        self._calls[call.number] = call

    def __len__(self) -> int:
        return len(self._calls)

    def answers_due(self) -> int:
        """How many wait for an answer, and not for an engine to open, which has its own time."""
        with self.lock:
            return sum(not call.opens for call in self._calls.values())

    def unsent(self) -> list[HeldCall]:
        """Those that wait for a process, oldest first; the lock must be held."""
        return [call for call in self._calls.values() if not call.sent]

    def drop(self, call: HeldCall) -> bool:
        """Hold it no longer; False when it has ended meanwhile."""
        with self.lock:
            return self._calls.pop(call.number, None) is not None

    def hand_over(self, frame: Frame) -> None:
        """Give a frame to the call it is for. Those of calls that were left are passed over."""
        with self.lock:
            call = self._calls.get(frame["call"])
            if call is None or not call.sent:
                return
            if "event" not in frame:
                del self._calls[call.number]
            elif not starts(frame):
                call.begun = True
        call.sink(frame)

    def lost(self, replays: int, reason: str) -> tuple[int, int]:
        """Their process is gone: make ready again what may be, and end the rest.

        Returns:
            How many will be made again, and how many have failed.
        """
        ended: list[HeldCall] = []
        replayed = 0
        with self.lock:
            for call in list(self._calls.values()):
                if not call.sent:
                    continue
                if call.begun or call.replays >= replays:
                    del self._calls[call.number]
                    ended.append(call)
                else:
                    call.sent = False
                    call.replays += 1
                    replayed += 1
        for call in ended:
            call.sink(EngineRestarted(f"the engine's process was lost ({reason}); ask again"))
        return replayed, len(ended)

    def fail(self, error: Callable[[], Exception]) -> int:
        """End every call with an error of its own, and say how many there were."""
        with self.lock:
            ended = list(self._calls.values())
            self._calls.clear()
        for call in ended:
            call.sink(error())
        return len(ended)
