"""A reference page of records, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dspy_toolkit.registry.record import FieldRecord, SignatureRecord

_CONSTRAINT_TEXT = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "min_length": "length at least {}",
    "max_length": "length at most {}",
    "pattern": "matches `{}`",
}


def reference_page(records: Sequence[SignatureRecord]) -> str:
    """Describe every record: instructions, fields, nested objects and examples."""
    lines = ["# Signatures", ""]
    for record in records:
        lines.append(f"- [{record.reference}](#{_anchor(record)}): {summary(record)}")
    for record in records:
        lines += ["", *_record(record)]
    return "\n".join(lines) + "\n"


def summary(record: SignatureRecord) -> str:
    """The first sentence of the instructions, on one line."""
    text = " ".join(record.instructions.split())
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


def field_meaning(field: FieldRecord) -> str:
    """What a field says beside its name: description and constraints."""
    limits = [_CONSTRAINT_TEXT[key].format(value) for key, value in field.constraints.items()]
    bounds = f"({', '.join(limits)})" if limits else ""
    return " ".join(part for part in (field.description, bounds) if part)


def _anchor(record: SignatureRecord) -> str:
    return "".join(each for each in record.reference if each.isalnum() or each in "_-")


def _record(record: SignatureRecord) -> Iterator[str]:
    yield f"## {record.reference}"
    yield ""
    yield from (f"> {line}".rstrip() for line in record.instructions.splitlines())
    yield ""
    yield from _table("Input", record.inputs)
    yield ""
    yield from _table("Output", record.outputs)
    for each in record.objects:
        yield ""
        yield from _table(f"Field of {each.name}", each.fields)
    if record.migration:
        yield ""
        yield f"Values of {record.migration.source} can be migrated to this version."
    for example in record.examples[:1]:
        yield ""
        yield from _example(example)
    yield ""
    yield f"Digest `{record.digest}`"


def _table(title: str, fields: Sequence[FieldRecord]) -> Iterator[str]:
    yield f"| {title} | Type | Meaning |"
    yield "|---|---|---|"
    for field in fields:
        cells = (f"`{field.name}`", f"`{field.type}`", field_meaning(field))
        yield f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _example(example: Mapping[str, Any]) -> Iterator[str]:
    yield "```json"
    yield from json.dumps(dict(example), indent=2, ensure_ascii=False).splitlines()
    yield "```"
