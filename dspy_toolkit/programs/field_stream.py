"""Reading an answer's fields from its text while it is still being written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from pydantic_core import from_json

_HEADER = re.compile(r"\[\[ ## (\w+) ## \]\][ \t]*\n?")


def _begun(parts: Sequence[str]) -> str:
    """A pattern of every beginning of some parts in a row."""
    return f"{parts[0]}(?:{_begun(parts[1:])})?" if parts[1:] else parts[0]


_PARTS = (r"\[", r"\[", " ", "#", "#", " ", r"\w+", " ", "#", "#", " ", r"\]", r"\]")
_HALF_HEADER = re.compile(rf"\s*(?:{_begun(_PARTS)})?\s*$")


class FieldReader:
    """Splits the growing text of one answer into pieces of its fields.

    Args:
        form: the prompt format the answer is written in, see `programs.formats`.
        fields: names of the output fields.
    """

    def __init__(self, form: str, fields: Sequence[str]) -> None:
        self._read = _READERS[form]
        self._fields = tuple(fields)
        self._text = ""
        self._given: dict[str, str] = {}

    def add(self, text: str, last: bool = False) -> list[tuple[str, str]]:
        """Take the next text; returns what is new: (field, text), in order.

        Args:
            last: whether the answer ends here, so that nothing need be held back.
        """
        self._text += text
        pieces = []
        for field, value in self._read(self._text, self._fields, last).items():
            known = self._given.get(field, "")
            if value.startswith(known) and len(value) > len(known):
                pieces.append((field, value[len(known) :]))
                self._given[field] = value
        return pieces


def _marked(text: str, fields: Sequence[str], last: bool) -> dict[str, str]:
    """Under `[[ ## field ## ]]` headers. A half header at the end is held back."""
    found: dict[str, str] = {}
    headers = list(_HEADER.finditer(text))
    for number, header in enumerate(headers):
        if header[1] not in fields:
            continue
        closed = number + 1 < len(headers)
        value = text[header.end() : headers[number + 1].start() if closed else len(text)]
        if not (closed or last):
            value = _HALF_HEADER.sub("", value)
        found[header[1]] = value.strip() if closed or last else value.lstrip()
    return found


def _json(text: str, fields: Sequence[str], last: bool) -> dict[str, str]:
    """In one JSON object; texts only, since half a number is another number."""
    begin = text.find("{")
    if begin < 0:
        return {}
    try:
        read = from_json(text[begin:].encode(), allow_partial="trailing-strings")
    except ValueError:
        return {}
    values: Mapping[str, object] = read if isinstance(read, dict) else {}
    return {name: value for name in fields if isinstance(value := values.get(name), str)}


def _tagged(text: str, fields: Sequence[str], last: bool) -> dict[str, str]:
    """Between `<field>` and `</field>`. What may be the beginning of the end is held back."""
    found: dict[str, str] = {}
    for name in fields:
        begin = text.find(f"<{name}>")
        if begin < 0:
            continue
        value = text[begin + len(name) + 2 :]
        end = value.find(f"</{name}>")
        if end >= 0:
            found[name] = value[:end].strip()
        else:
            open_tag = value.rfind("<")
            half = open_tag >= 0 and f"</{name}>".startswith(value[open_tag:])
            found[name] = (value[:open_tag].rstrip() if half else value.rstrip()).lstrip()
    return found


_READERS: dict[str, Callable[[str, Sequence[str], bool], dict[str, str]]] = {
    "chat": _marked,
    "chat_only": _marked,
    "guided": _marked,
    "guided_json": _json,
    "json": _json,
    "xml": _tagged,
}
