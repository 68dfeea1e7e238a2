"""What grammars of answers are made of: options, schemas and numbers of output fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import dspy
from llguidance import LLMatcher
from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

WHOLE = r"-?(0|[1-9][0-9]{0,14})"


@dataclass(frozen=True)
class Weighed:
    """An output field that is one of a few options, for the engine to weigh.

    Attributes:
        name: of the field.
        after: the text that stands right before the option in an answer.
        end: what stands right behind it.
        options: the values by how they are written.
    """

    name: str
    after: str
    end: str
    options: Mapping[str, Any]


def is_optional(kind: Any) -> tuple[Any, bool]:
    """A type without its None, and whether it had one; (None, False) for a wider union."""
    if get_origin(kind) not in (Union, UnionType):
        return kind, False
    members = [member for member in get_args(kind) if member is not NoneType]
    if len(members) != 1:
        return None, False
    return members[0], len(members) < len(get_args(kind))


def options_of(kind: Any) -> list[Any] | None:
    """The values of a type that has only a few: Literal, bool or Enum."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return list(kind)
    return [True, False] if kind is bool else None


def schema_of(kind: Any, constraints: list[Any]) -> dict[str, Any] | None:
    """The JSON schema of a type under its constraints, or None where it has none."""
    if isinstance(kind, type) and issubclass(kind, dspy.Type):
        return None
    constrained: Any = Annotated[(kind, *constraints)] if constraints else kind
    try:
        schema: dict[str, Any] = TypeAdapter(constrained).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, TypeError):
        return None
    for shape in (schema, *schema.get("$defs", {}).values()):
        # Pydantic passes over keys it does not know; a model would only ramble in them.
        if "properties" in shape:
            shape.setdefault("additionalProperties", False)
    return schema


def is_grammar(start: str, *rules: str) -> bool:
    """Whether llguidance takes a grammar."""
    whole = LLMatcher.grammar_from_lark("\n".join([f"start: {start}", *rules]) + "\n")
    return not LLMatcher.validate_grammar(whole)


def quoted(text: str) -> str:
    """A text as a literal of the grammar."""
    return json.dumps(text, ensure_ascii=False)
