"""An engine whose work is done by a process of its own; it survives that process."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from queue import SimpleQueue
from typing import Any, Self

from dspy_toolkit.contract import (
    Request,
    Response,
    StreamEvent,
    next_in_time,
    request_to_dict,
    response_from_dict,
    stream_event_from_dict,
)
from dspy_toolkit.events import Event
from dspy_toolkit.resilience.breaker import Breaker
from dspy_toolkit.resilience.supervised.calls import Sink
from dspy_toolkit.resilience.supervised.opening import Opening
from dspy_toolkit.resilience.supervised.openings import enter
from dspy_toolkit.resilience.supervised.policy import SupervisionPolicy
from dspy_toolkit.resilience.supervised.supervisor import Supervisor, closed, good
from dspy_toolkit.resilience.supervised.wire import Frame


class SupervisedEngine:
    """Runs an engine in a child process, watches it and starts it again when it fails.

    A model that runs out of memory may take its process with it, and one that hangs cannot be
    taken out of a thread; here neither reaches the caller's process. Calls that a lost process
    held are made again if nothing of their answer has been heard, else they fail with
    `EngineRestarted`, which may be retried.

    Args:
        opening: how the child gets its engine.
        policy: how it is watched.
        name: what events and metrics call it.
        shared_as: everything that decides what the child loads. Engines of the same key have one
            process and what is loaded there in common, and the first one's policy and name; the
            last one that is closed ends it. None shares with nobody.

    Raises:
        NotFound, InvalidInput, IntegrityError, EngineError: the child cannot open its engine.
    """

    punctual = True
    supports_function_calling: bool = False
    supports_reasoning: bool = False
    supports_response_schema: bool = False
    supports_probabilities: bool = False

    def __init__(
        self,
        opening: Opening,
        policy: SupervisionPolicy | None = None,
        name: str = "supervised",
        shared_as: str | None = None,
    ) -> None:
        self._opening, self._shared_as = opening, shared_as
        self._policy = policy or SupervisionPolicy()
        self._supervisor, self._number = enter(
            opening, shared_as, lambda: Supervisor(name, opening, self._policy)
        )
        self._forgotten = weakref.finalize(self, self._supervisor.abandon, self._number)
        try:
            abilities = self._supervisor.abilities(self._number)
        except BaseException:
            self.close()
            raise
        self.model_string: str = abilities["model_string"]
        vars(self).update(abilities["supports"])
        self.supported_params = frozenset(abilities["supported_params"])

    @property
    def alive(self) -> bool:
        """Whether a process takes calls now. Calls made while none does wait for the next one."""
        return self._supervisor.alive and not self.closed

    @property
    def closed(self) -> bool:
        """Whether it was closed for good."""
        return not self._forgotten.alive or self._supervisor.closed

    @property
    def breaker(self) -> Breaker:
        """Opens when processes end too often; can be opened and closed by hand."""
        return self._supervisor.breaker

    @property
    def process_id(self) -> int | None:
        """Of the process that takes calls now."""
        return self._supervisor.process_id

    @property
    def running(self) -> int:
        """Calls without an answer, those of engines that share the process among them."""
        return len(self._supervisor.calls)

    def samples(self) -> list[Event]:
        """How the child's engine stood at its last sign of life, as events for metrics."""
        sample = self._supervisor.sample
        return [] if sample is None else [replace(sample, model=self.model_string)]

    @property
    def async_twin(self) -> AsyncSupervisedEngine:
        """The same process for coroutines."""
        return AsyncSupervisedEngine(self)

    def complete(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            CircuitOpen: the process ends too often. EngineRestarted: it was lost with the call.
            Otherwise the errors of the engine in the child.
        """
        inbox: SimpleQueue[Frame | Exception] = SimpleQueue()
        with self._asked(_whole(request), inbox.put):
            return response_from_dict(good(next_in_time(inbox))["response"])

    def stream(self, request: Request) -> Generator[StreamEvent, None, None]:
        """Answer a request piece by piece; errors as of `complete`."""
        inbox: SimpleQueue[Frame | Exception] = SimpleQueue()
        reader = _Reader()
        with self._asked(_streamed(request), inbox.put):
            while not reader.over:
                yield from reader.read(next_in_time(inbox))

    def embed(self, text: str) -> tuple[list[float], int]:
        """A text as a vector of length 1, and its tokens.

        Raises:
            UnsupportedFeatureError: the engine in the child offers none. Otherwise as `complete`.
        """
        inbox: SimpleQueue[Frame | Exception] = SimpleQueue()
        with self._asked({"embed": text}, inbox.put):
            return _vector(next_in_time(inbox))

    def close(self) -> None:
        """Give the process back; later calls fail. The last to do so ends it, and then calls in
        flight fail too."""
        if self._forgotten.detach():
            self._supervisor.quit(self._number)

    def dump_state(self) -> dict[str, Any]:
        """What `load_state` needs to start it again, as JSON."""
        return {
            "opening": asdict(self._opening),
            "policy": vars(self._policy),
            "name": self._supervisor.name,
            "shared_as": self._shared_as,
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Self:
        """Start it again. This imports what the state names, so load only what you trust."""
        opening, policy = Opening(**state["opening"]), SupervisionPolicy(**state["policy"])
        return cls(opening, policy, state["name"], state.get("shared_as"))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # DSPy deep-copies programs with their model; the process must stay one.
        return self

    @contextmanager
    def _asked(self, order: Frame, sink: Sink) -> Iterator[None]:
        if self.closed:
            raise closed()
        call = self._supervisor.submit({"by": self._number, **order}, sink)
        try:
            yield
        finally:
            self._supervisor.leave(call)


class AsyncSupervisedEngine:
    """`SupervisedEngine` for coroutines; made by its `async_twin`."""

    def __init__(self, sync_twin: SupervisedEngine) -> None:
        self._sync = sync_twin

    async def complete(self, request: Request) -> Response:
        """Answer a request; see `SupervisedEngine.complete`."""
        inbox, sink = _mailbox()
        with self._sync._asked(_whole(request), sink):
            return response_from_dict(good(await inbox.get())["response"])

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        """Answer a request piece by piece; see `SupervisedEngine.stream`."""
        inbox, sink = _mailbox()
        reader = _Reader()
        with self._sync._asked(_streamed(request), sink):
            while not reader.over:
                for event in reader.read(await inbox.get()):
                    yield event

    async def embed(self, text: str) -> tuple[list[float], int]:
        """See `SupervisedEngine.embed`."""
        inbox, sink = _mailbox()
        with self._sync._asked({"embed": text}, sink):
            return _vector(await inbox.get())

    async def aclose(self) -> None:
        """Close the engine; see `SupervisedEngine.close`."""
        await asyncio.to_thread(self._sync.close)

    def dump_state(self) -> dict[str, Any]:
        """The state of its twin for threads."""
        return self._sync.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> AsyncSupervisedEngine:
        """Start it again; see `SupervisedEngine.load_state`."""
        return SupervisedEngine.load_state(state).async_twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class _Reader:
    """Makes one stream of what comes, also when it was begun twice."""

    def __init__(self) -> None:
        self.over = False
        self._started = False

    def read(self, message: Frame | Exception) -> Iterator[StreamEvent]:
        frame = good(message)
        if "over" in frame:
            self.over = True
            return
        event = stream_event_from_dict(frame["event"])
        if event.type == "start":
            if self._started:
                return
            self._started = True
        yield event


def _whole(request: Request) -> Frame:
    return {"request": request_to_dict(request), "streamed": False}


def _streamed(request: Request) -> Frame:
    return {"request": request_to_dict(request), "streamed": True}


def _vector(message: Frame | Exception) -> tuple[list[float], int]:
    frame = good(message)
    return frame["embedded"], frame["tokens"]


def _mailbox() -> tuple[asyncio.Queue[Frame | Exception], Sink]:
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[Frame | Exception] = asyncio.Queue()

    def sink(message: Frame | Exception) -> None:
        # A loop that has ended takes no more; whoever waited on it is gone.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(inbox.put_nowait, message)

    return inbox, sink
