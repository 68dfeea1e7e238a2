"""What an answer in ChatAdapter's form may look like, as a grammar for the engine.

Headers and the closing marker are fixed; numbers, options and JSON values follow their types and
constraints. A text may be anything up to the next header. Since values are cut there, a text
cannot contain a line that begins with `[[ ## `, which ChatAdapter would read as a header too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from weakref import WeakKeyDictionary

import dspy
from llguidance import LLMatcher
from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

# The engine takes the grammar under this key of a JSON schema instead of the schema.
KEY = "x-dspy-toolkit-grammar"
_DONE = "completed"
_TEXT = r"((?s:.*)\n)?[ \t]*\[\[ ## "
_WHOLE = r"-?(0|[1-9][0-9]{0,14})"
_NUMBER = _WHOLE + r"(\.[0-9]{1,12})?"
# Lists and objects are written the way demonstrations show them.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_made: WeakKeyDictionary[type[Any], dict[str, Any]] = WeakKeyDictionary()


def answer_format(signature: type[dspy.Signature]) -> dict[str, Any]:
    """The `response_format` that holds an answer to a signature's output fields."""
    found = _made.get(signature)
    if found is None:
        found = _made[signature] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {KEY: answer_grammar(signature)}},
        }
    return found


def answer_grammar(signature: type[dspy.Signature]) -> str:
    """The grammar of a signature's answers, in llguidance's dialect of Lark.

    A constraint that no grammar can hold, such as a pattern that looks ahead, is left out.
    """
    names = list(signature.output_fields)
    start = [_quoted(f"[[ ## {names[0]} ## ]]\n")]
    rules = []
    for number, name in enumerate(names):
        following = names[number + 1] if number + 1 < len(names) else None
        header = f"{following} ## ]]\n" if following else f"{_DONE} ## ]]\n"
        info = signature.output_fields[name]
        rule = f"field_{number}"
        written = _value(rule, info.annotation, info.metadata)
        if written is None:
            start.append(f"({rule} {_quoted(header)}{'' if following else f' | {rule}_end'})")
            rules.append(f"{rule}[lazy]: /{_TEXT}/")
            if following is None:
                # A model may end its last text without the closing marker.
                rules.append(f"{rule}_end: {rule.upper()}_END")
                rules.append(f"{rule.upper()}_END: /(?s:.*)/ & ~/({_TEXT})(?s:.*)/")
        else:
            closed = written.startswith(f"{rule}[lazy]")
            start.append(f"{rule} {_quoted(header if closed else f'{chr(10) * 2}[[ ## {header}')}")
            rules.append(written)
    return "\n".join([f"start: {' '.join(start)}", *rules]) + "\n"


def cut_field(signature: type[dspy.Signature], completion: str) -> str | None:
    """The output field at which an answer ends before its time, or None for a whole answer."""
    if completion.rstrip().endswith(f"[[ ## {_DONE} ## ]]"):
        return None
    names = list(signature.output_fields)
    reached = [name for name in names if f"[[ ## {name} ## ]]" in completion]
    last: str = reached[-1] if reached else names[0]
    info = signature.output_fields[names[-1]]
    if last == names[-1] and _value("x", info.annotation, info.metadata) is None:
        return None
    return last


def _value(rule: str, kind: Any, constraints: list[Any]) -> str | None:
    """The rule of a value, which ends with the next header's beginning if it is lazy; None for
    a text that may be anything."""
    empty = False
    if get_origin(kind) in (Union, UnionType):
        members = [member for member in get_args(kind) if member is not NoneType]
        empty = len(members) < len(get_args(kind))
        if len(members) != 1:
            return None
        kind = members[0]
    if kind is str:
        return None if empty else _bounded_text(rule, constraints)
    body = _body(kind, constraints)
    if body is None:
        return None
    none = ' | "None"' if empty else ""
    return _if_valid(f"{rule}: {body}{none}")


def _body(kind: Any, constraints: list[Any]) -> str | None:
    if get_origin(kind) is Literal:
        return " | ".join(_quoted(str(option)) for option in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " | ".join(_quoted(str(member.value)) for member in kind)
    if kind is bool:
        return '"True" | "False"'
    schema = _schema(kind, constraints)
    if schema is None:
        return None
    shape = schema.get("type")
    if shape in ("integer", "number") and kind in (int, float):
        if schema.keys() - {"type"}:
            return f"%json {json.dumps(schema)}"
        return f"/{_WHOLE if shape == 'integer' else _NUMBER}/"
    if shape in ("array", "object") or "$ref" in schema:
        return f"%json {json.dumps({**schema, 'x-guidance': _JSON_STYLE})}"
    return None


def _schema(kind: Any, constraints: list[Any]) -> Mapping[str, Any] | None:
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


def _bounded_text(rule: str, constraints: list[Any]) -> str | None:
    schema = _schema(str, constraints) or {}
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    bounds = []
    if least or most is not None:
        bounds.append(f"/(?s:.{{{least},{'' if most is None else most}}})/")
    pattern = schema.get("pattern")
    if pattern is not None:
        before = "" if pattern.startswith("^") else "(?s:.*)"
        after = "" if pattern.endswith("$") else "(?s:.*)"
        body = pattern.removeprefix("^").removesuffix("$").replace("/", r"\/")
        bounds.append(f"/{before}({body}){after}/")
    if not bounds:
        return None
    text = f'{rule.upper()}_TEXT: ({" & ".join(bounds)}) "\\n\\n[[ ## "'
    return _if_valid(f"{rule}[lazy]: {rule.upper()}_TEXT\n{text}")


def _if_valid(written: str) -> str | None:
    name = written.split(":")[0].split("[")[0]
    whole = LLMatcher.grammar_from_lark(f"start: {name}\n{written}\n")
    return None if LLMatcher.validate_grammar(whole) else written


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
