"""From plain tables (TOML, JSON, or what a Python class says) to a record, or to all problems."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.registry.build_values import example_problems, read_migration, without_none
from dspy_toolkit.registry.field_types import render_type
from dspy_toolkit.registry.record import (
    CONSTRAINTS,
    FieldRecord,
    KeyPath,
    ObjectRecord,
    SignatureRecord,
)
from dspy_toolkit.registry.rules import (
    NAME,
    VERSION,
    Problem,
    constraint_problems,
    cycles,
    field_name_problem,
    object_name_problem,
    placement_problem,
)
from dspy_toolkit.registry.type_text import TypeTextError, parse_type

_KEYS = (
    "name",
    "version",
    "instructions",
    "inputs",
    "outputs",
    "objects",
    "examples",
    "migration",
)
_FIELD_KEYS = ("type", "description", *CONSTRAINTS)


def build(
    tables: Mapping[str, Any], source: Path | None = None
) -> tuple[SignatureRecord | None, list[Problem]]:
    """Make a record.

    Returns:
        The record and no problems, or None and every problem found.
    """
    try:
        json.dumps(tables, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return None, [Problem((), "a text holds half a character", "write whole characters")]
    builder = _Builder(tables)
    record = builder.record(source)
    return (None, builder.problems) if builder.problems else (record, [])


def built(tables: Mapping[str, Any], what: str) -> SignatureRecord:
    """Make a record of tables that come from no signature file.

    Args:
        what: where the tables are from, for the message.

    Raises:
        InvalidInput: with the first problem.
    """
    record, problems = build(tables)
    if record is None:
        first = problems[0]
        place = ".".join(map(str, first.path)) or "the record"
        raise InvalidInput(f"{what}: {place}: {first.what}; {first.fix}")
    return record


class _Builder:
    def __init__(self, tables: Mapping[str, Any]) -> None:
        self._tables = tables
        self.problems: list[Problem] = []

    def record(self, source: Path | None) -> SignatureRecord:
        for key in self._tables:
            if key not in _KEYS:
                self._add((key,), f"unknown key {key!r}", nearest(key, _KEYS))
        name = self._matching("name", NAME, "small letters, digits and underscores, at most 64")
        version = self._matching("version", VERSION, "three numbers, for example '1.0.0'")
        instructions = self._instructions()
        objects = self._objects()
        inputs = self._side("inputs")
        outputs = self._side("outputs")
        for each in self._names("outputs"):
            if each in self._names("inputs"):
                self._add(
                    ("outputs", each), f"field {each!r} is an input and an output", "rename one"
                )
        record = SignatureRecord(
            name=name,
            version=version,
            instructions=instructions,
            inputs=tuple(inputs.values()),
            outputs=tuple(outputs.values()),
            objects=tuple(objects),
            source=source,
        )
        return self._with_values(record)

    def _with_values(self, record: SignatureRecord) -> SignatureRecord:
        """Add examples and migration, judged by the fields whose types are sound."""
        sides = {side: self._names(side) for side in ("inputs", "outputs")}
        examples = without_none(self._tables.get("examples", []))
        if any(each.path[:1] == ("objects",) for each in self.problems):
            self.problems.extend(example_problems(examples, None, sides))
            return record
        self.problems.extend(example_problems(examples, record, sides))
        names = {name for side in sides.values() for name in side}
        migration, carried = read_migration(self._tables.get("migration"), record, names)
        self.problems.extend(carried)
        if self.problems:
            return record
        return replace(record, examples=tuple(examples), migration=migration)

    def _names(self, side: str) -> tuple[str, ...]:
        table = self._tables.get(side)
        return tuple(table) if isinstance(table, Mapping) else ()

    def _add(self, path: KeyPath, what: str, fix: str) -> None:
        self.problems.append(Problem(path, what, fix))

    def _matching(self, key: str, pattern: Any, wanted: str) -> str:
        value = self._tables.get(key)
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        if key not in self._tables:
            self._add((), f"{key} is missing", f"add {key} = ..., {wanted}")
        else:
            self._add((key,), f"{key} {value!r} is not usable", f"write {wanted}")
        return ""

    def _instructions(self) -> str:
        value = self._tables.get("instructions")
        if not isinstance(value, str) or not value.strip():
            path = ("instructions",) if "instructions" in self._tables else ()
            self._add(path, "instructions are missing", "say what the model is to do, as a text")
            return ""
        # As DSPy shows them: it cleans the docstring that they become.
        return inspect.cleandoc(value.strip())

    def _table(self, path: KeyPath, value: Any) -> Mapping[str, Any]:
        if isinstance(value, Mapping):
            return value
        self._add(path, f"{path[-1]} must be a table, got {value!r}", "see docs/signatures.md")
        return {}

    def _objects(self) -> list[ObjectRecord]:
        objects = []
        for name, value in self._table(("objects",), self._tables.get("objects", {})).items():
            path = ("objects", name)
            if problem := object_name_problem(name):
                self._add(path, *problem)
            fields = self._fields(path, value)
            if isinstance(value, Mapping) and not value:
                self._add(path, f"object {name!r} has no fields", "add one, or use dict[str, str]")
            objects.append(ObjectRecord(name, tuple(fields.values())))
        self.problems.extend(cycles(objects))
        return objects

    def _side(self, side: str) -> dict[str, FieldRecord]:
        if not self._tables.get(side):
            path = (side,) if side in self._tables else ()
            self._add(path, f"there are no {side}", f"add [{side}.NAME] with a type")
            return {}
        return self._fields((side,), self._tables[side])

    def _fields(self, path: tuple[str, ...], value: Any) -> dict[str, FieldRecord]:
        found = {}
        for name, table in self._table(path, value).items():
            at = (*path, name)
            misnamed = field_name_problem(name, nested=path[0] == "objects")
            if misnamed:
                self._add(at, *misnamed)
            if isinstance(table, str):
                self._add(at, f"field {name!r} is a text", f"write {name} = {{ type = {table!r} }}")
            elif isinstance(table, Mapping):
                field = self._field(at, table)
                if field and not misnamed:
                    found[name] = field
            else:
                self._table(at, table)
        return found

    def _field(self, path: tuple[str, ...], table: Mapping[str, Any]) -> FieldRecord | None:
        """The field with what is sound of it, or None where its type is not."""
        for key in table:
            if key not in _FIELD_KEYS:
                self._add((*path, key), f"unknown key {key!r}", nearest(key, _FIELD_KEYS))
        description = table.get("description", "")
        if not isinstance(description, str):
            self._add((*path, "description"), "description must be a text", "put it in quotes")
        text = table.get("type")
        if not isinstance(text, str):
            at = (*path, "type") if "type" in table else path
            self._add(at, f"field {path[-1]!r} has no type", "add type = 'str' or another")
            return None
        try:
            kind = parse_type(text)
        except TypeTextError as error:
            self._add(
                (*path, "type"),
                f"type {text!r}, character {error.position}: {error.what}",
                error.fix,
            )
            return None
        misplaced = placement_problem(kind, path[0], self._names("objects"))
        if misplaced:
            self._add((*path, "type"), *misplaced)
        constraints = {key: table[key] for key in CONSTRAINTS if key in table}
        for key, what, fix in tuple(constraint_problems(kind, constraints)):
            self._add((*path, key), what, fix)
            constraints.pop(key, None)
        if misplaced:
            return None
        return FieldRecord(path[-1], render_type(kind), str(description).strip(), **constraints)
