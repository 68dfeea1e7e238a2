"""JSON values as grammars, laid out as Python writes them: indented, or on one line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dspy_toolkit.programs.value_grammar import WHOLE, is_grammar, quoted, schema_of

Schema = Mapping[str, Any]

_NUMBER = WHOLE + r"(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,3})?"
# Values of unknown depth: on one line as Python writes it, else with whitespace that ends.
_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LOOSE = {"whitespace_pattern": r"( |\n {0,16})?"}


def json_value(kind: Any, constraints: list[Any], depth: int | None = None) -> str:
    """The grammar of a type's values under its constraints.

    Args:
        kind, constraints: of the field.
        depth: levels of indent of the line that the value begins in, two blanks each; None for
            a value on one line.
    """
    schema = schema_of(kind, constraints)
    layout = _Layout({} if schema is None else schema.get("$defs", {}), flat=depth is None)
    if schema is None:
        return layout.loose({})
    try:
        written = layout.value(schema, depth or 0)
    except RecursionError:
        return layout.loose(schema)
    return written if is_grammar(written) else layout.loose(schema)


def dumped(value: Any) -> str:
    """A JSON value as demonstrations show it."""
    return json.dumps(value, ensure_ascii=False)


class _Layout:
    """Writes schemas as grammars.

    Args:
        definitions: what references stand for.
        flat: whether a value lies on one line.
    """

    def __init__(self, definitions: Schema, flat: bool) -> None:
        self._definitions = definitions
        self._flat = flat
        self._open: list[str] = []

    def value(self, schema: Schema, depth: int) -> str:
        """The grammar of a value whose line has `depth` levels of indent.

        Raises:
            RecursionError: it may hold itself.
        """
        if "$ref" in schema:
            return self._referred(schema["$ref"].rsplit("/", 1)[-1], depth)
        if "const" in schema or "enum" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            return " | ".join(quoted(dumped(value)) for value in values)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema and (key != "allOf" or len(schema[key]) == 1):
                return " | ".join(f"({self.value(each, depth)})" for each in schema[key])
        match schema.get("type"):
            case "object" if "properties" in schema:
                return self._object(schema["properties"], depth)
            case "object" if isinstance(schema.get("additionalProperties"), Mapping):
                key = self.value({"type": "string", **schema.get("propertyNames", {})}, depth)
                item = self.value(schema["additionalProperties"], depth + 1)
                return self._many("{}", f'({key}) ": " ({item})', schema, depth)
            case "array" if "prefixItems" in schema:
                items = [f"({self.value(each, depth + 1)})" for each in schema["prefixItems"]]
                return self._wrapped("[]", items, depth)
            case "array" if "items" in schema:
                item = self.value(schema["items"], depth + 1)
                return self._many("[]", f"({item})", schema, depth)
        return self._scalar(schema)

    def loose(self, schema: Schema) -> str:
        """The grammar of a value that is not laid out, as far as llguidance knows its schema."""
        style = _ONE_LINE if self._flat else _LOOSE
        written = "%json " + json.dumps({**schema, "x-guidance": style})
        return written if is_grammar(written) else "%json " + json.dumps({"x-guidance": style})

    def _referred(self, name: str, depth: int) -> str:
        if name in self._open:
            raise RecursionError(f"{name} may hold itself")
        self._open.append(name)
        written = self.value(self._definitions[name], depth)
        self._open.pop()
        return written

    def _object(self, properties: Schema, depth: int) -> str:
        items = [
            f"{quoted(dumped(name) + ': ')} ({self.value(each, depth + 1)})"
            for name, each in properties.items()
        ]
        return self._wrapped("{}", items, depth)

    def _wrapped(self, brackets: str, items: Sequence[str], depth: int) -> str:
        if not items:
            return quoted(brackets)
        first, between, last = self._spaces(depth)
        inner = f" {quoted(between)} ".join(items)
        return f"{quoted(brackets[0] + first)} {inner} {quoted(last + brackets[1])}"

    def _many(self, brackets: str, item: str, schema: Schema, depth: int) -> str:
        least = max(schema.get("minItems", 0), schema.get("minProperties", 0))
        most = schema.get("maxItems", schema.get("maxProperties"))
        if most == 0:
            return quoted(brackets)
        first, between, last = self._spaces(depth)
        more = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        some = f"{quoted(brackets[0] + first)} {item} ({quoted(between)} {item}){more}"
        return f"{some} {quoted(last + brackets[1])}" + ("" if least else f" | {quoted(brackets)}")

    def _spaces(self, depth: int) -> tuple[str, str, str]:
        """What stands before the first item, between two, and behind the last."""
        if self._flat:
            return "", ", ", ""
        line = "\n" + "  " * (depth + 1)
        return line, "," + line, "\n" + "  " * depth

    def _scalar(self, schema: Schema) -> str:
        kind = schema.get("type")
        if kind == "boolean":
            return '"true" | "false"'
        if kind == "null":
            return '"null"'
        limits = schema.keys() - {"type", "title", "description", "default"}
        if kind in ("integer", "number") and not limits:
            return f"/{WHOLE if kind == 'integer' else _NUMBER}/"
        if kind in ("integer", "number", "string"):
            written = f"%json {json.dumps(schema)}"
            return written if is_grammar(written) else f"%json {json.dumps({'type': kind})}"
        return self.loose(schema)
