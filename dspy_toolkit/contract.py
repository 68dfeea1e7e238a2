"""DSPy's engine contract in one place: the shapes of engines, requests, answers and errors.

Everything below the program level that speaks of language model calls imports these names from
here. An engine makes one attempt per call: it raises a `dspy.lm15` error and never tries again.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Protocol, TypeAlias, TypeVar

from dspy._vendor.lm15.serde import (
    request_from_dict,
    request_to_dict,
    response_from_dict,
    response_to_dict,
    stream_event_from_dict,
    stream_event_to_dict,
)
from dspy._vendor.lm15.transports import (
    ReadTimeout,
    StdlibTransport,
    TransportRequest,
    TransportResponse,
)
from dspy.clients.engines.lm15_engine import AsyncLM15Engine, LM15Engine
from dspy.clients.engines.stream_guard import error_from_event
from dspy.lm15 import (
    RETRYABLE_ERRORS,
    AccessPolicy,
    AuthError,
    CapabilityError,
    Config,
    ConfigurationError,
    ContextLengthError,
    EndpointSupport,
    FunctionTool,
    InvalidRequestError,
    LM15Error,
    Message,
    NotConfiguredError,
    OpenAIChatCompat,
    ProviderDefinition,
    ProviderError,
    RateLimitError,
    Reasoning,
    RefusalPart,
    Request,
    Response,
    RouterConfig,
    ServerError,
    StreamAssemblyError,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamErrorEvent,
    StreamStartEvent,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    TimeoutError,
    Timeouts,
    TokenLogprob,
    ToolCallDelta,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    TransportError,
    UnsupportedFeatureError,
    UnsupportedModelError,
    Usage,
    materialize_response,
    response_to_events,
)

T = TypeVar("T")
StreamEvent: TypeAlias = StreamStartEvent | StreamDeltaEvent | StreamEndEvent | StreamErrorEvent

# When whoever called the engine that runs here stops waiting, by `time.monotonic`. An engine may
# read it to end a call whose answer nobody would hear; it never ends one earlier. One that always
# does has `punctual = True`, and needs no thread beside its caller's to be given up on.
gives_up_at: ContextVar[float] = ContextVar("dspy_toolkit_gives_up_at", default=math.inf)

# In a JSON schema of a request: a grammar in llguidance's dialect of Lark. An engine that knows it
# takes it instead of the schema, and another takes it as no schema at all.
GRAMMAR_KEY = "x-dspy-toolkit-grammar"

# Called by an engine when the answer it gives is another engine's than the one it is named after,
# so that nobody keeps it as that one's.
answered_in_place: ContextVar[Callable[[], None]] = ContextVar(
    "dspy_toolkit_answered_in_place", default=lambda: None
)


def next_in_time(inbox: SimpleQueue[T]) -> T:
    """The next item, waited for no longer than whoever called this engine does.

    Raises:
        TimeoutError: it did not come in time.
    """
    due = gives_up_at.get()
    if due == math.inf:
        return inbox.get()
    try:
        return inbox.get(timeout=min(max(due - time.monotonic(), 0.0), threading.TIMEOUT_MAX))
    except Empty:
        raise TimeoutError("nobody waits for the engine's answer any more") from None


class Engine(Protocol):
    """Answers requests for threads. `complete` and `stream` may be called from several at once."""

    def complete(self, request: Request) -> Response: ...

    def stream(self, request: Request) -> Iterator[StreamEvent]: ...

    def close(self) -> None: ...


class AsyncEngine(Protocol):
    """Answers requests for coroutines."""

    async def complete(self, request: Request) -> Response: ...

    def stream(self, request: Request) -> AsyncIterator[StreamEvent]: ...

    async def aclose(self) -> None: ...


__all__ = [
    "GRAMMAR_KEY",
    "RETRYABLE_ERRORS",
    "AccessPolicy",
    "AsyncEngine",
    "AsyncLM15Engine",
    "AuthError",
    "CapabilityError",
    "Config",
    "ConfigurationError",
    "ContextLengthError",
    "EndpointSupport",
    "Engine",
    "FunctionTool",
    "InvalidRequestError",
    "LM15Engine",
    "LM15Error",
    "Message",
    "NotConfiguredError",
    "OpenAIChatCompat",
    "ProviderDefinition",
    "ProviderError",
    "RateLimitError",
    "ReadTimeout",
    "Reasoning",
    "RefusalPart",
    "Request",
    "Response",
    "RouterConfig",
    "ServerError",
    "StdlibTransport",
    "StreamAssemblyError",
    "StreamDeltaEvent",
    "StreamEndEvent",
    "StreamErrorEvent",
    "StreamEvent",
    "StreamStartEvent",
    "TextDelta",
    "TextPart",
    "ThinkingDelta",
    "ThinkingPart",
    "TimeoutError",
    "Timeouts",
    "TokenLogprob",
    "ToolCallDelta",
    "ToolCallPart",
    "ToolChoice",
    "ToolResultPart",
    "TransportError",
    "TransportRequest",
    "TransportResponse",
    "UnsupportedFeatureError",
    "UnsupportedModelError",
    "Usage",
    "answered_in_place",
    "error_from_event",
    "gives_up_at",
    "materialize_response",
    "next_in_time",
    "request_from_dict",
    "request_to_dict",
    "response_from_dict",
    "response_to_dict",
    "response_to_events",
    "stream_event_from_dict",
    "stream_event_to_dict",
]
