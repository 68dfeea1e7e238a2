"""The parts of a record that hold values: its examples and its migration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from dspy_toolkit.errors import nearest
from dspy_toolkit.registry.field_types import ListOf, render_type, required
from dspy_toolkit.registry.record import (
    FieldRecord,
    KeyPath,
    Migration,
    Side,
    SignatureRecord,
    version_key,
)
from dspy_toolkit.registry.rules import VERSION, Problem
from dspy_toolkit.registry.values import value_problems

_SIDES: tuple[Side, ...] = ("inputs", "outputs")
_MIGRATION_KEYS = ("from", "renames", "defaults", "values")


def example_problems(
    examples: Any, record: SignatureRecord | None, names: Mapping[str, Collection[str]]
) -> Iterator[Problem]:
    """What is wrong with the examples: their shape, and with a record their values too.

    Args:
        examples: as they stand in the file.
        record: the fields that values can be judged by.
        names: all fields of each side, sound or not.
    """
    if not isinstance(examples, list):
        yield Problem(("examples",), "examples must be a list", "write [[examples]] above each")
        return
    for index, example in enumerate(examples):
        path: KeyPath = ("examples", index)
        shape = tuple(_shape(path, example))
        yield from shape
        if record is None or shape:
            continue
        for side in _SIDES:
            judged = {each.name for each in record.fields(side)}
            for problem in value_problems(record, side, example[side]):
                if problem.field in names[side] and problem.field not in judged:
                    continue
                stray = problem.field not in names[side]
                fix = nearest(problem.field, names[side]) if stray else problem.fix
                at = (*path, side, problem.field)
                yield Problem(at, f"example {index + 1}: {problem.what}", fix)


def without_none(value: Any) -> Any:
    """The value without the keys that are null: to leave a field out says the same."""
    if isinstance(value, Mapping):
        return {key: without_none(each) for key, each in value.items() if each is not None}
    return [without_none(each) for each in value] if isinstance(value, list) else value


def _shape(path: KeyPath, example: Any) -> Iterator[Problem]:
    if not isinstance(example, Mapping):
        yield Problem(path, "an example must be a table", "give it inputs and outputs")
        return
    for key in example:
        if key not in _SIDES:
            yield Problem((*path, key), f"unknown key {key!r}", nearest(key, _SIDES))
    for side in _SIDES:
        if not isinstance(example.get(side), Mapping):
            yield Problem(path, f"the example has no {side}", f"add {side} = {{ ... }}")


def read_migration(
    table: Any, record: SignatureRecord, names: Collection[str]
) -> tuple[Migration | None, tuple[Problem, ...]]:
    """Read a migration.

    Args:
        table: the table as it stands in the file, or None.
        record: the sound fields of the record that it is for.
        names: all its fields, sound or not.
    """
    if table is None:
        return None, ()
    if not isinstance(table, Mapping):
        return None, (Problem(("migration",), "migration must be a table", "write [migration]"),)
    problems = [*_keys(table), *_source(table, record)]
    tables = {}
    for key in _MIGRATION_KEYS[1:]:
        tables[key] = table.get(key, {})
        if not isinstance(tables[key], Mapping):
            at = ("migration", key)
            problems.append(Problem(at, f"{key} must be a table", f"write [migration.{key}]"))
            tables[key] = {}
    problems += _names(tables, names)
    problems += _values(tables, record)
    return Migration(str(table.get("from")), **tables), tuple(problems)


def _keys(table: Mapping[str, Any]) -> Iterator[Problem]:
    for key in table:
        if key not in _MIGRATION_KEYS:
            fix = nearest(key, _MIGRATION_KEYS)
            yield Problem(("migration", key), f"unknown key {key!r}", fix)


def _source(table: Mapping[str, Any], record: SignatureRecord) -> Iterator[Problem]:
    source = table.get("from")
    path = ("migration", "from")
    if "from" not in table:
        what = "migration does not say from which version"
        yield Problem(("migration",), what, "add from = '1.0.0'")
    elif not isinstance(source, str) or not VERSION.fullmatch(source):
        yield Problem(path, f"from {source!r} is no version", "write three numbers, as in '1.0.0'")
    elif record.version and version_key(source) >= version_key(record.version):
        what = f"version {source} is not before {record.version}"
        yield Problem(path, what, "name an earlier version")


def _names(tables: Mapping[str, Any], names: Collection[str]) -> Iterator[Problem]:
    named = {key: {name: name for name in tables[key]} for key in ("defaults", "values")}
    for key, pairs in {"renames": tables["renames"], **named}.items():
        for at, name in pairs.items():
            if not isinstance(name, str) or name not in names:
                what = f"{name!r} is no field of this version"
                yield Problem(("migration", key, at), what, nearest(str(name), names))
    for old in tables["renames"]:
        if old in names:
            what = f"{old!r} still is a field of this version"
            yield Problem(("migration", "renames", old), what, "remove the rename")
    targets = list(tables["renames"].values())
    for old, new in tables["renames"].items():
        if targets.count(new) > 1:
            what = f"two fields are renamed to {new!r}"
            yield Problem(("migration", "renames", old), what, "keep one")


def _values(tables: Mapping[str, Any], record: SignatureRecord) -> Iterator[Problem]:
    for name, value in tables["defaults"].items():
        yield from _value(record, ("migration", "defaults", name), name, value)
    items = _of_items(record)
    for name, table in tables["values"].items():
        if not isinstance(table, Mapping):
            fix = f"write [migration.values.{name}] with old = new"
            yield Problem(("migration", "values", name), "values must be a table", fix)
            continue
        for old, value in table.items():
            yield from _value(items, ("migration", "values", name, old), name, value)


def _value(record: SignatureRecord, path: KeyPath, name: str, value: Any) -> Iterator[Problem]:
    for problem in value_problems(record, "all", {name: value}):
        if problem.field == name and not problem.what.endswith("not in the signature"):
            yield Problem(path, problem.what, problem.fix)


def _of_items(record: SignatureRecord) -> SignatureRecord:
    """The record with the type of its items for each list: that is what `values` replace."""
    return replace(
        record,
        inputs=tuple(map(_of_item, record.inputs)),
        outputs=tuple(map(_of_item, record.outputs)),
    )


def _of_item(field: FieldRecord) -> FieldRecord:
    kind = required(field.parsed)
    return FieldRecord(field.name, render_type(kind.item)) if isinstance(kind, ListOf) else field
