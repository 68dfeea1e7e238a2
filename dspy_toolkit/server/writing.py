"""From an engine's answers to OpenAI's."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from dspy_toolkit.contract import (
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamEvent,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    TokenLogprob,
    ToolCallDelta,
    ToolCallPart,
    Usage,
)
from dspy_toolkit.server.forced_tools import ForcedTools

_REASONS = {"tool_call": "tool_calls", "length": "length", "stop": "stop"}


class Envelope:
    """What all chunks of an answer, or its one body, have in common."""

    def __init__(self, kind: str, prefix: str, model: str) -> None:
        self.kind = kind
        self.common = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }

    def body(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        """A whole answer."""
        return {**self.common, "choices": choices, "usage": usage}

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        """A piece of a stream, as a server-sent event."""
        return event({**self.common, "choices": choices, **more})


def event(data: Any, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def chat_choice(index: int, response: Response, forced: ForcedTools | None) -> dict[str, Any]:
    """One choice of a chat."""
    parts = response.message.parts
    text = "".join(part.text for part in parts if isinstance(part, TextPart))
    thinking = "".join(part.text for part in parts if isinstance(part, ThinkingPart))
    calls = [
        _call(n, part.id, part.name, json.dumps(part.input, ensure_ascii=False))
        for n, part in enumerate(p for p in parts if isinstance(p, ToolCallPart))
    ]
    reason = _REASONS.get(response.finish_reason, "stop")
    if forced is not None:
        calls = [_call(0, f"call_{secrets.token_hex(8)}", *forced.call(text))]
        text, reason = "", "tool_calls" if reason == "stop" else reason
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": None,
    }
    if thinking:
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in calls]
    scored = response.logprobs is not None and forced is None
    return {
        "index": index,
        "message": message,
        "logprobs": _chat_logprobs(response.logprobs or ()) if scored else None,
        "finish_reason": reason,
    }


class ChatStream:
    """Turns the events of one choice into chunks."""

    def __init__(self, envelope: Envelope, index: int, forced: ForcedTools | None) -> None:
        self._envelope = envelope
        self._index = index
        self._forced = forced
        self._said: list[str] = []
        self._calls: dict[int, int] = {}
        self.usage: Usage | None = None

    def start(self) -> bytes:
        """The first chunk."""
        return self._chunk({"role": "assistant", "content": ""})

    def chunks(self, event: StreamEvent) -> list[bytes]:
        """The chunks of an event."""
        if isinstance(event, StreamEndEvent):
            self.usage = event.usage
            reason = _REASONS.get(event.finish_reason or "stop", "stop")
            return [*self._forced_call(), self._chunk({}, reason=self._reason(reason))]
        if not isinstance(event, StreamDeltaEvent):
            return []
        match event.delta:
            case TextDelta() as delta:
                return self._text(delta)
            case ThinkingDelta(text=text):
                return [self._chunk({"reasoning_content": text})]
            case ToolCallDelta() as delta:
                index = self._calls.setdefault(delta.part_index, len(self._calls))
                call = _call(index, delta.id or "", delta.name or "", delta.input)
                return [self._chunk({"tool_calls": [call]})]
        return []

    def _text(self, delta: TextDelta) -> list[bytes]:
        if self._forced is None:
            logprobs = _chat_logprobs(delta.logprobs) if delta.logprobs else None
            return [self._chunk({"content": delta.text}, logprobs)]
        self._said.append(delta.text)
        if len(self._forced.names) > 1 or not delta.text:
            return []
        first = len(self._said) == 1
        call = (
            _call(0, f"call_{secrets.token_hex(8)}", self._forced.names[0], delta.text)
            if first
            else {"index": 0, "function": {"arguments": delta.text}}
        )
        return [self._chunk({"tool_calls": [call]})]

    def _forced_call(self) -> list[bytes]:
        if self._forced is None or len(self._forced.names) == 1:
            return []
        called = self._forced.call("".join(self._said))
        return [self._chunk({"tool_calls": [_call(0, f"call_{secrets.token_hex(8)}", *called)]})]

    def _reason(self, reason: str) -> str:
        return "tool_calls" if self._forced is not None and reason == "stop" else reason

    def _chunk(
        self, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None
    ) -> bytes:
        choice = {
            "index": self._index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        return self._envelope.chunk([choice])


def completion_choice(index: int, response: Response) -> dict[str, Any]:
    """One choice of a plain completion."""
    text = response.text or ""
    scores = response.logprobs
    return {
        "index": index,
        "text": text,
        "logprobs": None if scores is None else _plain_logprobs(scores, 0),
        "finish_reason": _REASONS.get(response.finish_reason, "stop"),
    }


class CompletionStream:
    """Turns the events of one plain completion into chunks."""

    def __init__(self, envelope: Envelope, index: int) -> None:
        self._envelope = envelope
        self._index = index
        self._length = 0
        self.usage: Usage | None = None

    def chunks(self, event: StreamEvent) -> list[bytes]:
        """The chunks of an event."""
        if isinstance(event, StreamEndEvent):
            self.usage = event.usage
            return [self._chunk("", None, _REASONS.get(event.finish_reason or "stop", "stop"))]
        if not isinstance(event, StreamDeltaEvent) or not isinstance(event.delta, TextDelta):
            return []
        delta = event.delta
        logprobs = _plain_logprobs(delta.logprobs, self._length) if delta.logprobs else None
        self._length += len(delta.text)
        return [self._chunk(delta.text, logprobs, None)]

    def _chunk(self, text: str, logprobs: Any, reason: str | None) -> bytes:
        choice = {
            "index": self._index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        return self._envelope.chunk([choice])


def usage_body(prompts: Sequence[Usage | None], answers: Sequence[Usage | None]) -> dict[str, Any]:
    """Tokens read and drawn.

    Args:
        prompts: of one sample for each prompt: samples read the same one.
        answers: of every sample.
    """
    read = sum((each.input_tokens or 0) for each in prompts if each)
    known = sum((each.cache_read_tokens or 0) for each in prompts if each)
    drawn = sum((each.output_tokens or 0) for each in answers if each)
    return {
        "prompt_tokens": read,
        "completion_tokens": drawn,
        "total_tokens": read + drawn,
        "prompt_tokens_details": {"cached_tokens": known},
    }


def _call(index: int, id_: str, name: str, arguments: str) -> dict[str, Any]:
    return {
        "index": index,
        "id": id_,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _chat_logprobs(scores: Sequence[TokenLogprob]) -> dict[str, Any]:
    def written(score: Any) -> dict[str, Any]:
        given = None if score.bytes is None else list(score.bytes)
        return {"token": score.token, "logprob": score.logprob, "bytes": given}

    content = [{**written(s), "top_logprobs": [written(top) for top in s.top]} for s in scores]
    return {"content": content, "refusal": None}


def _plain_logprobs(scores: Sequence[TokenLogprob], begin: int) -> dict[str, Any]:
    offsets, place = [], begin
    for score in scores:
        offsets.append(place)
        place += len(score.token)
    return {
        "tokens": [score.token for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [{top.token: top.logprob for top in score.top} for score in scores],
        "text_offset": offsets,
    }
