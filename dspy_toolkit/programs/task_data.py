"""The `[data]` table of a task: given splits, or one file divided by a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.programs.data import SPLITS, Check, Data, Row, make_data, make_splits, read_rows
from dspy_toolkit.programs.signature import media_files, typed_values
from dspy_toolkit.programs.task_file import Table
from dspy_toolkit.registry import SignatureRecord
from dspy_toolkit.registry.values import value_problems

_DEFAULT_SHARES = {"train": 0.25, "validation": 0.25, "test": 0.5}


def load_data(task: Table, record: SignatureRecord | None) -> Data:
    """Read and check a task's examples.

    Args:
        task: the whole task file.
        record: the signature that every line must fit; without one, `[data] inputs` says which
            fields are inputs and all lines must have the same fields.

    Raises:
        NotFound: a file is missing.
        InvalidInput: a key or a line is wrong, a split is empty, or two share inputs.
    """
    table = task.table("data")
    if table is None:
        raise InvalidInput(f"{task.at()}: add a [data] table with train, validation and test")
    table.only("all", "split", "inputs", *SPLITS)
    inputs = _inputs(table, record)
    check = _fits(record) if record else _same_fields(inputs)
    splits = _divided(table, inputs, check) if "all" in table.values else _given(table, check)
    if record is not None:
        _note_media(table, record, splits)
    return make_data(splits, inputs, _typed(record, task.folder))


def _inputs(table: Table, record: SignatureRecord | None) -> tuple[str, ...]:
    if record is None:
        return table.texts("inputs")
    if "inputs" in table.values:
        raise InvalidInput(
            f"{table.at('inputs')}: the signature already says the inputs; remove inputs"
        )
    return tuple(each.name for each in record.inputs)


def _note_media(table: Table, record: SignatureRecord, splits: dict[str, list[Row]]) -> None:
    for row in (row for rows in splits.values() for row in rows):
        for file in media_files(record, row.values):
            table.relative(file, f"{table.folder / row.place}")


def _given(table: Table, check: Check) -> dict[str, list[Row]]:
    if "split" in table.values:
        raise InvalidInput(
            f"{table.at('split')}: [data.split] divides the file `all`; add all = '...'"
        )
    return {name: _rows(table, name, check) for name in SPLITS}


def _divided(table: Table, inputs: Sequence[str], check: Check) -> dict[str, list[Row]]:
    both = [name for name in SPLITS if name in table.values]
    if both:
        raise InvalidInput(f"{table.at(both[0])}: all and {both[0]} exclude each other; remove one")
    split = table.table("split")
    shares, seed = dict(_DEFAULT_SHARES), 0
    if split is not None:
        split.only("seed", *SPLITS)
        seed = split.whole("seed", 0)
        if any(name in split.values for name in SPLITS):
            shares = {name: split.number(name, 0.0) for name in SPLITS}
        if abs(sum(shares.values()) - 1) > 1e-6 or not all(shares.values()):
            raise InvalidInput(
                f"{split.at()}: train, validation and test must be above 0 and sum to 1, "
                f"got {', '.join(f'{value:g}' for value in shares.values())}"
            )
    return make_splits(_rows(table, "all", check), inputs, shares, seed)


def _rows(table: Table, key: str, check: Check) -> list[Row]:
    name = table.text(key)
    return read_rows(table.file(name), name, check)


def _fits(record: SignatureRecord) -> Check:
    known = [each.name for each in record.all_fields]

    def check(values: dict[str, Any]) -> str | None:
        # A misspelt field is missing too; its own name says more.
        for name in values:
            if name not in known:
                return f"field {name!r} is not in the signature; {nearest(name, known)}"
        problems = value_problems(record, "all", values)
        return str(problems[0]) if problems else None

    return check


def _same_fields(inputs: Sequence[str]) -> Check:
    wanted: list[str] = []

    def check(values: dict[str, Any]) -> str | None:
        wanted.extend(() if wanted else values)
        missing = [name for name in (*inputs, *wanted) if name not in values]
        extra = [name for name in values if name not in wanted]
        if missing:
            return f"field {missing[0]!r} is missing"
        if extra:
            return f"field {extra[0]!r} is not in the first line; all lines need the same fields"
        return None if set(wanted) - set(inputs) else "there is no field beside the inputs to score"

    return check


def _typed(
    record: SignatureRecord | None, folder: Path
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    if record is None:
        return dict
    return lambda values: typed_values(record, values, folder)
