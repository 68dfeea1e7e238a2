"""Signature files for tests: one small sound text, and variations of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dspy_toolkit.registry import SignatureRecord
from dspy_toolkit.registry.build import build

TRIAGE = """\
name = "triage"
version = "1.0.0"
instructions = "Route the ticket."

[inputs.ticket]
type = "str"
description = "The message."

[outputs.team]
type = "Literal['red', 'blue']"

[outputs.lines]
type = "list[Line]"

[objects.Line.sku]
type = "str"

[[examples]]
inputs = { ticket = "Help" }
outputs = { team = "red", lines = [{ sku = "a" }] }
"""


def write(folder: Path, text: str = TRIAGE, place: str = "triage/1.0.0.toml") -> Path:
    """Write a signature file into a folder."""
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def record(
    inputs: dict[str, Any], outputs: dict[str, Any], version: str = "1.0.0", **more: Any
) -> SignatureRecord:
    """A record of fields that are given as tables, or as the text of their type."""
    sides = {
        side: {
            name: {"type": field} if isinstance(field, str) else field
            for name, field in fields.items()
        }
        for side, fields in (("inputs", inputs), ("outputs", outputs))
    }
    content = {"name": "triage", "version": version, "instructions": "Do it.", **sides, **more}
    made, problems = build(content)
    assert made is not None, problems
    return made
