"""An engine around an engine that keeps what was asked and answered."""

from __future__ import annotations

import threading
from typing import Any

from dspy_toolkit.engine import bridge
from dspy_toolkit.engine.chat import Turn


class RecordingEngine:
    """Answers as another engine does and remembers every conversation.

    Attributes:
        conversations: turns of each call that was answered with text, the answer last.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self.conversations: list[list[Turn]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> RecordingEngine:
        return self

    def complete(self, request: bridge.Request) -> bridge.Response:
        """Answer a request and keep it."""
        response: bridge.Response = self._engine.complete(request)
        ask = bridge.read_request(
            request,
            tools=self._engine.supports_function_calling,
            thinking=self._engine.supports_reasoning,
        )
        parts = (getattr(part, "text", "") for part in response.message.parts)
        said = "".join(text for text in parts if text)
        if said.strip():
            with self._lock:
                turns = [{"role": t["role"], "content": t["content"]} for t in ask.turns]
                self.conversations.append([*turns, {"role": "assistant", "content": said}])
        return response
