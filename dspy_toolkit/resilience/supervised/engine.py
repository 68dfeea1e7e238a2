"""An engine whose work is done by a process of its own; it survives that process."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
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
from dspy_toolkit.resilience.supervised.policy import SupervisionPolicy
from dspy_toolkit.resilience.supervised.supervisor import Supervisor
from dspy_toolkit.resilience.supervised.wire import Frame, error_of


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
    ) -> None:
        self._opening = opening
        self._policy = policy or SupervisionPolicy()
        self._supervisor = Supervisor(name, opening, self._policy)
        self._forgotten = weakref.finalize(self, self._supervisor.abandon)
        abilities = self._supervisor.opened.result()
        self.model_string: str = abilities["model_string"]
        vars(self).update(abilities["supports"])
        self.supported_params = frozenset(abilities["supported_params"])

    @property
    def alive(self) -> bool:
        """Whether a process takes calls now. Calls made while none does wait for the next one."""
        return self._supervisor.alive

    @property
    def closed(self) -> bool:
        """Whether it was closed for good."""
        return self._supervisor.closed

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
        """Calls without an answer."""
        return len(self._supervisor.calls)

    def samples(self) -> list[Event]:
        """How the child's engine stood at its last sign of life, as events for metrics."""
        sample = self._supervisor.sample
        return [] if sample is None else [sample]

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
        with self._asked(request, False, inbox.put):
            return response_from_dict(_good(next_in_time(inbox))["response"])

    def stream(self, request: Request) -> Generator[StreamEvent, None, None]:
        """Answer a request piece by piece; errors as of `complete`."""
        inbox: SimpleQueue[Frame | Exception] = SimpleQueue()
        reader = _Reader()
        with self._asked(request, True, inbox.put):
            while not reader.over:
                yield from reader.read(next_in_time(inbox))

    def close(self) -> None:
        """End the process. Calls in flight fail, and so do later ones."""
        self._forgotten.detach()
        self._supervisor.close()

    def dump_state(self) -> dict[str, Any]:
        """What `load_state` needs to start it again, as JSON."""
        return {
            "opening": asdict(self._opening),
            "policy": vars(self._policy),
            "name": self._supervisor.name,
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Self:
        """Start it again. This imports what the state names, so load only what you trust."""
        opening, policy = Opening(**state["opening"]), SupervisionPolicy(**state["policy"])
        return cls(opening, policy, state["name"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # DSPy deep-copies programs with their model; the process must stay one.
        return self

    @contextmanager
    def _asked(self, request: Request, streamed: bool, sink: Sink) -> Iterator[None]:
        call = self._supervisor.submit(request_to_dict(request), streamed, sink)
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
        with self._sync._asked(request, False, sink):
            return response_from_dict(_good(await inbox.get())["response"])

    async def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        """Answer a request piece by piece; see `SupervisedEngine.stream`."""
        inbox, sink = _mailbox()
        reader = _Reader()
        with self._sync._asked(request, True, sink):
            while not reader.over:
                for event in reader.read(await inbox.get()):
                    yield event

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
        frame = _good(message)
        if "over" in frame:
            self.over = True
            return
        event = stream_event_from_dict(frame["event"])
        if event.type == "start":
            if self._started:
                return
            self._started = True
        yield event


def _good(message: Frame | Exception) -> Frame:
    if isinstance(message, Exception):
        raise message
    if "error" in message:
        raise error_of(message["error"])
    return message


def _mailbox() -> tuple[asyncio.Queue[Frame | Exception], Sink]:
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[Frame | Exception] = asyncio.Queue()

    def sink(message: Frame | Exception) -> None:
        # A loop that has ended takes no more; whoever waited on it is gone.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(inbox.put_nowait, message)

    return inbox, sink
