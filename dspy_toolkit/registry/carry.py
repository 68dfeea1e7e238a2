"""Carrying values of one version of a signature to a newer one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.registry.lookup import find
from dspy_toolkit.registry.record import Migration, SignatureRecord, version_key
from dspy_toolkit.registry.values import value_problems


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of one set of values.

    Attributes:
        values: for the new version, or None where they cannot be carried.
        why: what stands against it, one line each.
        dropped: names of fields that the new version no longer has.
    """

    values: dict[str, Any] | None
    why: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def chain(
    old: SignatureRecord,
    new: SignatureRecord,
    folders: Sequence[Path] | None = None,
    settings: Settings | None = None,
) -> tuple[SignatureRecord, ...]:
    """The versions to go through, from the old to the new one.

    A version that declares a migration from another is reached through that one; a version that
    declares none is reached directly. Versions on the way are looked for as `find` does.

    Raises:
        InvalidInput: `new` is not a later version of the same name.
        SignatureNotFound: a version on the way is not registered.
    """
    if old.name != new.name or version_key(old.version) >= version_key(new.version):
        raise InvalidInput(
            f"{new.reference} is not a later version of {old.reference}; "
            "name the old version first and the new one second"
        )
    steps = [new]
    while (step := steps[0].migration) and version_key(step.source) > version_key(old.version):
        steps.insert(0, find(f"{old.name}@{step.source}", folders, settings))
    return (old, *steps)


def carry(values: Mapping[str, Any], versions: Sequence[SignatureRecord]) -> Carried:
    """Carry one flat set of values through versions, by declared renames, values and defaults.

    Keys that belong to no field, such as a demonstration's reasoning, stay. A field that the
    old version had and the values lack may be lacking still.
    """
    current = dict(values)
    dropped: list[str] = []
    for old, new in itertools.pairwise(versions):
        current, gone = _step(current, old, new)
        dropped += gone
        why = _problems(current, old, new)
        if why:
            return Carried(None, why, tuple(dropped))
    return Carried(current, dropped=tuple(dropped))


def migration_between(old: SignatureRecord, new: SignatureRecord) -> Migration:
    """What the new version declares about the old one, or nothing."""
    declared = new.migration
    if declared is None or declared.source != old.version:
        return Migration(old.version)
    return declared


def field_names(record: SignatureRecord) -> tuple[str, ...]:
    """The names of all inputs, then all outputs."""
    return tuple(each.name for each in record.all_fields)


def _step(
    values: dict[str, Any], old: SignatureRecord, new: SignatureRecord
) -> tuple[dict[str, Any], list[str]]:
    migration = migration_between(old, new)
    before, after = field_names(old), field_names(new)
    renamed = {migration.renames.get(name, name): value for name, value in values.items()}
    mapped = {
        name: _mapped(value, migration.values.get(name, {})) for name, value in renamed.items()
    }
    gone = [name for name in mapped if name in before and name not in after]
    kept = {name: value for name, value in mapped.items() if name not in gone}
    # A required field that the values lack, such as a label yet to be given, is not made up.
    sure = {
        migration.renames.get(each.name, each.name) for each in old.all_fields if not each.optional
    }
    for name, default in migration.defaults.items():
        if name not in sure and kept.get(name) is None:
            kept[name] = default
    return kept, gone


def _mapped(value: Any, table: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_mapped(item, table) for item in value]
    return table.get(_text(value), value) if isinstance(value, str | int) else value


def _text(value: str | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _problems(
    values: Mapping[str, Any], old: SignatureRecord, new: SignatureRecord
) -> tuple[str, ...]:
    renames = migration_between(old, new).renames
    before = {renames.get(name, name) for name in field_names(old)}
    after = field_names(new)
    own = {name: value for name, value in values.items() if name in after}
    return tuple(
        str(problem)
        for problem in value_problems(new, "all", own)
        if problem.field in own or problem.field not in before
    )
