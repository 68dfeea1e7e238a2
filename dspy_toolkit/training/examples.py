"""Training examples in JSON Lines: conversations, prompts with completions, weighted pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import InvalidInput, reject_unknown_keys
from dspy_toolkit.store.files import parse_json, read_text

_ROLES = ("system", "user", "assistant")
_SHOWN = 60


class InvalidExample(InvalidInput):
    """A line of a data file is no training example."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation with at least one answer of the assistant, which comes last.

    `place` says where it was read, as `file:line`.
    """

    turns: tuple[Turn, ...]
    place: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A text and how it goes on, outside any chat template."""

    prompt: str
    completion: str
    place: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text and how much its tokens count in the loss; 0 is only read."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Pieces:
    """A text in pieces that are tokenized apart, end of sequence included where it is wanted."""

    pieces: tuple[Piece, ...]
    place: str


Example = Chat | Completion | Pieces


def read_examples(files: Iterable[Path]) -> list[Example]:
    """Read data files. Empty lines are passed over.

    Raises:
        NotFound: there is no such file.
        InvalidInput: a line is not JSON, is no example, or has no answer; or a file is empty.
    """
    found: list[Example] = []
    for file in files:
        lines = read_text(file, "data file").split("\n")
        before = len(found)
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"{file}:{number}"
                found.append(example_from(parse_json(line, place), place))
        if len(found) == before:
            raise InvalidExample(f"data file {file} is empty; give one JSON object a line")
    return found


def example_from(value: Any, place: str) -> Example:
    """Make an example of a JSON value.

    Args:
        value: `{"messages": [{"role", "content"}, ...]}`, `{"prompt", "completion"}` or
            `{"pieces": [{"text", "weight"}, ...]}`.
        place: where it stands, for messages.

    Raises:
        InvalidExample: it is none of these, or has no answer.
    """
    if not isinstance(value, Mapping):
        raise InvalidExample(f"{place}: must be an object, got {_shown(value)}")
    if "messages" in value:
        reject_unknown_keys(value, ("messages",), place)
        return Chat(_turns(value["messages"], place), place)
    if "prompt" in value or "completion" in value:
        reject_unknown_keys(value, ("prompt", "completion"), place)
        prompt, completion = (_text(value, key, place) for key in ("prompt", "completion"))
        if not completion.strip():
            raise InvalidExample(f"{place}: completion is empty, so there is no answer to learn")
        return Completion(prompt, completion, place)
    if "pieces" in value:
        reject_unknown_keys(value, ("pieces",), place)
        return Pieces(_pieces(value["pieces"], place), place)
    raise InvalidExample(
        f'{place}: must have "messages", "prompt" and "completion", or "pieces"; '
        f"it has {', '.join(map(repr, value)) or 'no keys'}"
    )


def _turns(messages: Any, place: str) -> tuple[Turn, ...]:
    if not isinstance(messages, list | tuple) or not messages:
        raise InvalidExample(f"{place}: messages must be a list of turns, got {_shown(messages)}")
    turns = tuple(_turn(message, f"{place}, message {i}") for i, message in enumerate(messages, 1))
    if turns[-1].role != "assistant" or not turns[-1].content.strip():
        raise InvalidExample(
            f"{place}: the last message must be the assistant's answer, "
            f"got {turns[-1].role!r} with {_shown(turns[-1].content)}"
        )
    return turns


def _turn(message: Any, place: str) -> Turn:
    if not isinstance(message, Mapping):
        raise InvalidExample(f"{place}: must be an object, got {_shown(message)}")
    reject_unknown_keys(message, ("role", "content"), place)
    role = message.get("role")
    if role not in _ROLES:
        raise InvalidExample(f"{place}: role must be one of {', '.join(_ROLES)}, got {role!r}")
    return Turn(role, _text(message, "content", place))


def _pieces(values: Any, place: str) -> tuple[Piece, ...]:
    if not isinstance(values, list | tuple) or not values:
        raise InvalidExample(f"{place}: pieces must be a list, got {_shown(values)}")
    pieces = tuple(_piece(value, f"{place}, piece {i}") for i, value in enumerate(values, 1))
    if not any(piece.weight for piece in pieces[1:]):
        raise InvalidExample(
            f"{place}: no piece after the first has a weight, so nothing is learnt"
        )
    return pieces


def _piece(value: Any, place: str) -> Piece:
    if not isinstance(value, Mapping):
        raise InvalidExample(f"{place}: must be an object, got {_shown(value)}")
    reject_unknown_keys(value, ("text", "weight"), place)
    weight = value.get("weight", 0.0)
    if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise InvalidExample(f"{place}: weight must be a number of at least 0, got {weight!r}")
    return Piece(_text(value, "text", place), float(weight))


def _text(value: Mapping[str, Any], key: str, place: str) -> str:
    if not isinstance(value.get(key), str):
        raise InvalidExample(f"{place}: {key} must be a text, got {_shown(value.get(key))}")
    text = str(value[key])
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InvalidExample(f"{place}: {key} holds half a character (a lone surrogate)")
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
