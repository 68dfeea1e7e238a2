"""Carrying stored examples and saved programs to a newer version, into new files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.registry.carry import carry
from dspy_toolkit.registry.program_state import CarriedProgram, carry_program
from dspy_toolkit.registry.record import SignatureRecord
from dspy_toolkit.store.files import (
    parse_json,
    read_json,
    read_text,
    refuse_existing,
    write_json,
    write_text,
)


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that could not be carried: where it stands and why."""

    where: str
    why: str


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a migration did.

    Attributes:
        carried: examples or demonstrations that the new file holds.
        refused: those that it does not hold.
        notes: what else to know, such as fields that were dropped.
    """

    carried: int
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]


def migrate(path: Path, versions: Sequence[SignatureRecord], output: Path) -> MigrationReport:
    """Carry a program's saved state, a `.json` file, or a JSON Lines file of examples.

    Args:
        path: what to carry; it stays as it is.
        versions: from `chain`.
        output: a new file.

    Raises:
        NotFound: no such file. InvalidInput: nothing in it can be carried, or `output` exists.
        IntegrityError: the program is damaged. StorageError: the output cannot be written.
    """
    refuse_existing(output)
    if path.suffix == ".json":
        state = read_json(path, "program")
        carried = carry_program(state, versions, str(path))
        write_json(output, carried.state)
        return program_report(carried)
    return _examples(path, versions, output)


def _examples(path: Path, versions: Sequence[SignatureRecord], output: Path) -> MigrationReport:
    kept: list[str] = []
    refused: list[Refused] = []
    dropped: list[str] = []
    for number, values in _objects(path):
        carried = carry(values, versions)
        dropped += carried.dropped
        if carried.values is None:
            refused.append(Refused(f"{path}:{number}", " and ".join(carried.why)))
        else:
            kept.append(json.dumps(carried.values, ensure_ascii=False))
    if refused and not kept:
        raise InvalidInput(
            f"no example of {path} can be carried to {versions[-1].reference}: "
            f"{refused[0].where}: {refused[0].why}"
        )
    write_text(output, "".join(f"{line}\n" for line in kept))
    return MigrationReport(len(kept), tuple(refused), _notes(dropped))


def program_report(carried: CarriedProgram) -> MigrationReport:
    """What became of a program."""
    refused = tuple(Refused(where, why) for where, why in carried.refused)
    return MigrationReport(carried.demos, refused, (*_notes(carried.dropped), *carried.notes))


def _notes(dropped: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"field {name!r} is no longer there and was dropped" for name in dict.fromkeys(dropped)
    )


def _objects(path: Path) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, line in enumerate(read_text(path, "examples file").splitlines(), start=1):
        if not line.strip():
            continue
        values = parse_json(line, f"{path}:{number}")
        if not isinstance(values, dict):
            raise InvalidInput(f"{path}:{number} is no JSON object; write {{...}} on each line")
        found.append((number, values))
    return found
