"""Engines that answer without a model: a fixed answer, and answers given before."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, Self

from dspy_toolkit.contract import (
    Message,
    Request,
    Response,
    ServerError,
    StreamEvent,
    Usage,
    response_to_events,
)
from dspy_toolkit.errors import EngineError, InvalidInput
from dspy_toolkit.resilience.breaker import Time
from dspy_toolkit.resilience.clock import SystemClock
from dspy_toolkit.store.files import sha256_json

# What an answer's `provider_data` says where no model was asked for it.
READY = {"generated": False}


class NothingRemembered(ServerError, EngineError):  # type: ignore[misc]  # DSPy ships no types
    """The same prompt was not answered lately."""


class ReadyEngine(ABC):
    """An engine whose answers need no waiting, for threads and coroutines."""

    supports_function_calling = False
    supports_reasoning = False
    supports_response_schema = False
    supported_params: frozenset[str] = frozenset()

    @abstractmethod
    def answer(self, request: Request) -> Response:
        """The answer to a request, at once."""

    def complete(self, request: Request) -> Response:
        """Answer a request."""
        return self.answer(request)

    def stream(self, request: Request) -> Iterator[StreamEvent]:
        """Answer a request in one piece."""
        yield from response_to_events(self.answer(request))

    @property
    def async_twin(self) -> ReadyTwin:
        """The same for coroutines."""
        return ReadyTwin(self)

    def close(self) -> None:  # noqa: B027 - a default, not a hook
        """Nothing to close."""


class ReadyTwin:
    """A `ReadyEngine` for coroutines."""

    def __init__(self, engine: ReadyEngine) -> None:
        self._engine = engine
        if hasattr(engine, "remember"):
            self.remember: Callable[[Request, Response], None] = engine.remember

    async def complete(self, request: Request) -> Response:
        """Answer a request."""
        return self._engine.answer(request)

    async def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        """Answer a request in one piece."""
        for event in response_to_events(self._engine.answer(request)):
            yield event

    async def aclose(self) -> None:
        """Nothing to close."""


class FixedAnswer(ReadyEngine):
    """Always gives the same answer, or one made from the request: a default to end a chain with.

    Args:
        text: the answer as the program's adapter would have it from a model, or what makes it.
        model: what the answer calls its model.
    """

    def __init__(self, text: str | Callable[[Request], str], model: str = "default") -> None:
        self._text = text
        self._model = model

    def answer(self, request: Request) -> Response:
        """The answer."""
        text = self._text if isinstance(self._text, str) else self._text(request)
        return Response(
            id=None,
            model=self._model,
            message=Message.assistant(text),
            finish_reason="stop",
            usage=Usage(),
            provider_data=READY,
        )

    def dump_state(self) -> dict[str, Any]:
        """The answer.

        Raises:
            InvalidInput: it is made by a function, which cannot be saved.
        """
        if not isinstance(self._text, str):
            raise InvalidInput("a FixedAnswer made by a function cannot be saved; give it a text")
        return {"text": self._text, "model": self._model}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        """Build it again."""
        return cls(state["text"], state["model"])


class AnswerMemory(ReadyEngine):
    """Repeats what the engines before it in the chain answered to the same prompt.

    The prompt is the system text, messages, tools and response format. Sampling settings are not
    part of it: an answer to the same question is better than none.

    Args:
        max_answers: kept at most; the one unused longest goes first.
        keep_s: how old an answer may be.
        time: tells the time.
    """

    def __init__(
        self, max_answers: int = 1000, keep_s: float = 86400.0, time: Time | None = None
    ) -> None:
        if max_answers < 1 or not keep_s > 0:
            raise InvalidInput(
                "max_answers must be at least 1 and keep_s above 0, "
                f"got {max_answers!r} and {keep_s!r}"
            )
        self._max_answers = max_answers
        self._keep_s = keep_s
        self._time = time or SystemClock()
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, tuple[float, Response]] = OrderedDict()

    def remember(self, request: Request, response: Response) -> None:
        """Keep an answer."""
        key = _prompt(request)
        with self._lock:
            self._answers[key] = self._time.now(), response
            self._answers.move_to_end(key)
            if len(self._answers) > self._max_answers:
                self._answers.popitem(last=False)

    def answer(self, request: Request) -> Response:
        """The answer given before.

        Raises:
            NothingRemembered: there is none, or it is too old.
        """
        key = _prompt(request)
        with self._lock:
            found = self._answers.get(key)
            if found is None or self._time.now() - found[0] > self._keep_s:
                self._answers.pop(key, None)
                raise NothingRemembered("no answer to the same prompt is remembered")
            self._answers.move_to_end(key)
            response = found[1]
        return replace(response, provider_data={**(response.provider_data or {}), **READY})

    def dump_state(self) -> dict[str, Any]:
        """Its size and age limit; answers are not saved."""
        return {"max_answers": self._max_answers, "keep_s": self._keep_s}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        """Build an empty one again."""
        return cls(**state)


def _prompt(request: Request) -> str:
    parts = asdict(request)
    wanted = {key: parts[key] for key in ("system", "messages", "tools")}
    return sha256_json({**wanted, "response_format": request.config.response_format})
