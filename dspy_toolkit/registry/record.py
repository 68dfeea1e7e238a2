"""Signature records: what a program takes, gives and is told to do, by name and version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from dspy_toolkit.registry.field_types import Type, UnionOf, render_type
from dspy_toolkit.registry.type_text import parse_type
from dspy_toolkit.store.files import sha256_json

Side: TypeAlias = Literal["inputs", "outputs"]
KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and indexes that lead to a place in nested tables."""

CONSTRAINTS = ("minimum", "maximum", "min_length", "max_length", "pattern")


@dataclass(frozen=True)
class FieldRecord:
    """One input, output or field of a nested object.

    Attributes:
        name: as in prompts and data lines.
        type: type text, for example `str`, `Literal['low', 'high']`, `list[Line] | None`.
        description: what a model is told about the field; may be empty.
        minimum, maximum: bounds of a number, both allowed.
        min_length, max_length: of a text in characters, of a list or dict in items.
        pattern: regular expression that must match somewhere in a text.
    """

    name: str
    type: str
    description: str = ""
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None

    @cached_property
    def parsed(self) -> Type:
        """The type as a value."""
        return parse_type(self.type)

    @property
    def optional(self) -> bool:
        """Whether the field may be left out, that is, its type ends in `| None`."""
        return isinstance(self.parsed, UnionOf) and self.parsed.optional

    @property
    def constraints(self) -> dict[str, Any]:
        """The constraints that are set, by key of the file."""
        values = {key: getattr(self, key) for key in CONSTRAINTS}
        return {key: value for key, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """The field as the table of a signature file, with the type in canonical form."""
        described = {"description": self.description} if self.description else {}
        return {"type": render_type(self.parsed), **described, **self.constraints}


@dataclass(frozen=True)
class ObjectRecord:
    """A nested object: named fields, used as a type by its name."""

    name: str
    fields: tuple[FieldRecord, ...]


@dataclass(frozen=True)
class Migration:
    """How values of an earlier version become values of this one.

    Attributes:
        source: the earlier version.
        renames: new name by old name, of fields.
        defaults: value by name, for fields that the earlier version lacks.
        values: by new name of a field, new value by the text of the old value.
    """

    source: str
    renames: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The migration as the table of a signature file."""
        tables = {
            "renames": dict(self.renames),
            "defaults": dict(self.defaults),
            "values": {name: dict(table) for name, table in self.values.items()},
        }
        return {"from": self.source, **{key: table for key, table in tables.items() if table}}


@dataclass(frozen=True)
class SignatureRecord:
    """A signature of one name and version.

    Attributes:
        instructions: what a model is told to do.
        inputs, outputs: the fields, in the order prompts show them.
        objects: nested objects that field types name.
        examples: `{"inputs": {...}, "outputs": {...}}` each, valid for the fields.
        migration: how values of an earlier version are carried here, where declared.
        source: the file it was read from; no part of its identity.
    """

    name: str
    version: str
    instructions: str
    inputs: tuple[FieldRecord, ...]
    outputs: tuple[FieldRecord, ...]
    objects: tuple[ObjectRecord, ...] = ()
    examples: tuple[Mapping[str, Any], ...] = ()
    migration: Migration | None = None
    source: Path | None = field(default=None, compare=False)

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the content: equal for files that differ in spacing or comments only."""
        content = self.to_dict()
        # The order of fields shows in prompts, so it counts; JSON objects here lose it.
        content["order"] = {
            "inputs": list(content["inputs"]),
            "outputs": list(content["outputs"]),
            "objects": {name: list(fields) for name, fields in content.get("objects", {}).items()},
        }
        return sha256_json(content)

    @property
    def all_fields(self) -> tuple[FieldRecord, ...]:
        """The inputs, then the outputs."""
        return self.inputs + self.outputs

    def fields(self, side: Side) -> tuple[FieldRecord, ...]:
        """The inputs or the outputs."""
        return self.inputs if side == "inputs" else self.outputs

    def to_dict(self) -> dict[str, Any]:
        """The record as the tables of a signature file; also its JSON form."""
        content: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "instructions": self.instructions,
            "inputs": {each.name: each.to_dict() for each in self.inputs},
            "outputs": {each.name: each.to_dict() for each in self.outputs},
        }
        if self.objects:
            content["objects"] = {
                each.name: {inner.name: inner.to_dict() for inner in each.fields}
                for each in self.objects
            }
        if self.migration:
            content["migration"] = self.migration.to_dict()
        if self.examples:
            content["examples"] = [dict(example) for example in self.examples]
        return content


def version_key(version: str) -> tuple[int, ...]:
    """A version for comparing: `1.10.0` comes after `1.9.0`."""
    return tuple(int(part) for part in version.split("."))
