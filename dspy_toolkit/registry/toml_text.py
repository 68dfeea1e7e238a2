"""Writing records as TOML, so that reading them back gives an equal record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.registry.record import SignatureRecord

_BARE = re.compile(r"[A-Za-z0-9_-]+")
# Quotes that would run into others and close the text.
_QUOTES = re.compile(r'"(?="|\Z)')
_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", "\\": "\\\\"}


def to_toml(record: SignatureRecord) -> str:
    """The text of a signature file.

    Raises:
        InvalidInput: an example holds a null inside a list, which TOML cannot say.
    """
    return "\n".join(_lines(record.to_dict())).strip() + "\n"


def _lines(tables: Mapping[str, Any]) -> Iterator[str]:
    for key in ("name", "version"):
        yield f"{key} = {_text(tables[key])}"
    yield f"instructions = {_block(tables['instructions'] + chr(10))}"
    for section in ("inputs", "outputs"):
        yield from _fields(section, tables[section])
    for name, fields in tables.get("objects", {}).items():
        yield from _fields(f"objects.{name}", fields)
    if "migration" in tables:
        yield from _table("migration", tables["migration"])
    for example in tables.get("examples", []):
        yield "\n[[examples]]"
        for side in ("inputs", "outputs"):
            yield from _table(f"examples.{side}", example[side], nested=False)


def _fields(section: str, fields: Mapping[str, Any]) -> Iterator[str]:
    for name, field in fields.items():
        yield from _table(f"{section}.{name}", field)


def _table(name: str, table: Mapping[str, Any], *, nested: bool = True) -> Iterator[str]:
    """A table; with `nested` its inner tables get headers of their own."""
    inner = {key: each for key, each in table.items() if nested and isinstance(each, Mapping)}
    yield f"\n[{name}]"
    for key, value in table.items():
        if key not in inner and value is not None:
            yield f"{_key(key)} = {_line_value(value)}"
    for key, each in inner.items():
        yield from _table(f"{name}.{_key(key)}", each, nested=name == "migration")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _basic(key)


def _line_value(value: Any) -> str:
    return _block(value) if isinstance(value, str) and "\n" in value else _value(value)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return _text(value)
        case list():
            return f"[{', '.join(_value(item) for item in value)}]"
        case Mapping():
            pairs = [f"{_key(key)} = {_value(item)}" for key, item in value.items()]
            return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    raise InvalidInput(f"{value!r} cannot be written in a signature file; leave it out")


def _text(text: str) -> str:
    """A text on one line: in single quotes where that saves escapes."""
    plain = all(character.isprintable() for character in text)
    if plain and "'" not in text and ('"' in text or "\\" in text):
        return f"'{text}'"
    return _basic(text)


def _basic(text: str) -> str:
    return f'"{"".join(map(_escaped, text))}"'


def _block(text: str) -> str:
    """A text over several lines, exactly."""
    body = "".join(each if each in '\n"' else _escaped(each) for each in text)
    closed = _QUOTES.sub('\\\\"', body)
    return f'"""\n{closed}"""'


def _escaped(character: str) -> str:
    if character == '"':
        return '\\"'
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
