"""An engine without a model, for tests and dry runs: a function answers."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from dspy_toolkit.engine import bridge
from dspy_toolkit.engine.output import Markers, OutputReader, Piece, text_of


class ScriptedEngine:
    """Implements DSPy's engine contract, sync and async, over a function.

    A token is a character here: usage, `max_tokens` and stop strings count characters.

    Args:
        answer: takes the whole request as text (system, then each turn as `role: content`, one
            below the other) and returns what the model says. It may raise lm15 errors.
        name: goes into the model string.
        context: most characters of a request, or None.

    Attributes:
        requests: the text of every request so far.
    """

    supports_function_calling = False
    supports_reasoning = False
    supports_response_schema = False
    supported_params = frozenset(bridge.SUPPORTED_PARAMS)

    def __init__(
        self, answer: Callable[[str], str], name: str = "scripted", context: int | None = None
    ) -> None:
        self._answer = answer
        self._name = name
        self._context = context
        self._lock = threading.Lock()
        self._closed = False
        self.requests: list[str] = []

    @property
    def model_string(self) -> str:
        """For `dspy.LM`. Scripts of different behaviour need different names."""
        return f"mlx/{self._name}#scripted"

    @property
    def async_twin(self) -> AsyncScriptedEngine:
        """The engine for coroutines, over the same function."""
        return AsyncScriptedEngine(self)

    def complete(self, request: bridge.Request) -> bridge.Response:
        """Answer a request."""
        return bridge.Translator(request.model, scored=False).response(self._run(request))

    def stream(self, request: bridge.Request) -> Generator[Any, None, None]:
        """Answer a request with events, one per line of the answer."""
        translator = bridge.Translator(request.model, scored=False)
        answer = self._run(request)
        yield translator.start()
        for line in text_of(answer.pieces).splitlines(keepends=True):
            yield translator.delta(Piece("text", line))
        yield translator.end(answer)

    def close(self) -> None:
        """Later calls fail."""
        self._closed = True

    def __deepcopy__(self, memo: dict[int, Any]) -> ScriptedEngine:
        return self

    def _run(self, request: bridge.Request) -> bridge.Answer:
        if self._closed:
            raise bridge.closed()
        ask = bridge.read_request(request, tools=False, thinking=False)
        if ask.schema is not None:
            raise bridge.unsupported("config.response_format", "constrained output of a script")
        text = "\n".join(f"{turn['role']}: {turn['content']}" for turn in ask.turns)
        if self._context is not None and len(text) >= self._context:
            raise bridge.too_long(len(text), self._context)
        with self._lock:
            self.requests.append(text)
        said = self._answer(text)
        reader = OutputReader(_Characters(), Markers(stops=ask.stops))
        pieces: list[Piece] = []
        drawn = 0
        for character in said[: ask.max_tokens]:
            drawn += 1
            pieces += reader.add(ord(character))
            if reader.stopped:
                break
        pieces += reader.finish()
        whole = reader.stopped or drawn == len(said)
        return bridge.Answer(pieces, "stop" if whole else "length", len(text), drawn)


class AsyncScriptedEngine:
    """The twin of a `ScriptedEngine` for coroutines."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine

    async def complete(self, request: bridge.Request) -> bridge.Response:
        """Answer a request."""
        return self._engine.complete(request)

    async def stream(self, request: bridge.Request) -> AsyncGenerator[Any, None]:
        """Answer a request with events."""
        for event in self._engine.stream(request):
            yield event

    async def aclose(self) -> None:
        """Later calls fail."""
        self._engine.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncScriptedEngine:
        return self


class _Characters:
    """A detokenizer whose tokens are code points."""

    last_segment = ""

    def add_token(self, token: int) -> None:
        self.last_segment = chr(token)

    def finalize(self) -> None:
        self.last_segment = ""
