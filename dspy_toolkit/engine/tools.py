"""Reading tool calls out of an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dspy_toolkit.engine.chat import Chat
from dspy_toolkit.engine.output import Piece

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Spoken:
    """An answer, split into what was said and what was called.

    Attributes:
        pieces: all that is no call, in order.
        broken: those of them that look like a call but cannot be read, or name no tool that was
            offered; they stand there as the model wrote them.
        calls: (name, arguments), in order.
    """

    pieces: list[Piece]
    broken: list[Piece]
    calls: list[Call]


def read_calls(pieces: Sequence[Piece], tools: list[dict[str, Any]], chat: Chat) -> Spoken:
    """Find the tool calls among the pieces of an answer."""
    spoken = Spoken([], [], [])
    names = {tool["function"]["name"] for tool in tools}
    for piece in pieces:
        if piece.kind != "tool":
            spoken.pieces.append(piece)
            continue
        found = _parse(piece.text, tools, chat)
        if found and all(name in names for name, _ in found):
            spoken.calls.extend(found)
        else:
            text = Piece("text", chat.as_call(piece.text), complete=False)
            spoken.pieces.append(text)
            spoken.broken.append(text)
    return spoken


def _parse(text: str, tools: list[dict[str, Any]], chat: Chat) -> list[Call]:
    try:
        parsed = chat.parse_call(text, tools)
        entries = parsed if isinstance(parsed, list) else [parsed]
        return [_call(entry) for entry in entries]
    # mlx-lm's parsers raise whatever their format's library does on half a call.
    except Exception:  # noqa: BLE001
        return []


def _call(entry: dict[str, Any]) -> Call:
    arguments = entry.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError(f"arguments of a tool call must be an object, got {arguments!r}")
    # Parsers may hand out values that JSON does not know, such as tuples.
    return str(entry["name"]), json.loads(json.dumps(arguments))
