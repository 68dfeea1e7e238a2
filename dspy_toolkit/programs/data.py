"""Examples from JSON Lines: read, checked, and divided into train, validation and test."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.store.files import read_text, sha256_json

SPLITS = ("train", "validation", "test")
Check = Callable[[dict[str, Any]], str | None]


@dataclass(frozen=True)
class Row:
    """One data line: its values and where it stands, as `data/test.jsonl:4`."""

    values: dict[str, Any]
    place: str


@dataclass(frozen=True)
class Split:
    """Examples for one purpose.

    Attributes:
        name: "train", "validation" or "test".
        rows: the lines as they were read.
        examples: the same as DSPy takes them, in the same order.
        digest: hex SHA-256 of the values, in order.
    """

    name: str
    rows: tuple[Row, ...]
    examples: tuple[dspy.Example, ...]
    digest: str


@dataclass(frozen=True)
class Data:
    """The three splits. No inputs stand in two of them.

    Attributes:
        inputs: names of all input fields, those that examples may leave out among them.
        train, validation, test: the examples.
    """

    inputs: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def split(self, name: str) -> Split:
        """One split by name.

        Raises:
            InvalidInput: there is no such split.
        """
        if name not in SPLITS:
            raise InvalidInput(f"split {name!r} does not exist; {nearest(name, SPLITS)}")
        return getattr(self, name)  # type: ignore[no-any-return]

    def locate(self, example: dspy.Example) -> str:
        """Where an example stands, as `data/test.jsonl:4`."""
        for split in (self.test, self.validation, self.train):
            for row, known in zip(split.rows, split.examples, strict=True):
                if known is example or known == example:
                    return row.place
        return "an example that is not in the data"


def read_rows(file: Path, shown: str, check: Check) -> list[Row]:
    """Read a JSON Lines file; blank lines count for line numbers only.

    Args:
        file: the file.
        shown: what rows call it; messages of this function name the file in full.
        check: says what is wrong with a line's values, or None.

    Raises:
        NotFound: the file does not exist.
        InvalidInput: it is empty, or a line is not a JSON object or does not fit.
    """
    rows = []
    for number, line in enumerate(read_text(file, "data file").split("\n"), start=1):
        if not line.strip():
            continue
        values = _parsed(line, f"{file}:{number}")
        problem = check(values)
        if problem:
            raise InvalidInput(f"{file}:{number}: {problem}")
        rows.append(Row(values, f"{shown}:{number}"))
    if not rows:
        raise InvalidInput(f"data file {file} has no examples; add one JSON object a line")
    return rows


def make_splits(
    rows: Sequence[Row], inputs: Sequence[str], fractions: dict[str, float], seed: int
) -> dict[str, list[Row]]:
    """Divide rows by chance; rows with the same inputs stay together.

    Args:
        rows: all examples.
        inputs: the input fields.
        fractions: share of the rows for each of the three splits, summing to 1.
        seed: the same seed divides the same rows the same way.

    Raises:
        InvalidInput: a split would be empty.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_key(row, inputs), []).append(row)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    splits: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for group in order:
        # The split that lacks most of its share takes the group, so all are filled evenly.
        name = max(SPLITS, key=lambda each: fractions[each] * len(rows) - len(splits[each]))
        splits[name] += group
    for name, taken in splits.items():
        if not taken:
            raise InvalidInput(
                f"the {name} split would be empty: {len(groups)} different examples are too few "
                f"for a share of {fractions[name]:g}; add examples or change [data.split]"
            )
    return splits


def make_data(
    splits: dict[str, list[Row]],
    inputs: Sequence[str],
    typed: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Data:
    """Build the splits' examples.

    Args:
        splits: rows by split name.
        inputs: the input fields.
        typed: turns JSON values into what programs take.

    Raises:
        InvalidInput: inputs stand in two splits.
    """
    examples = {
        name: [_example(row, inputs, typed) for row in rows] for name, rows in splits.items()
    }
    return _data(splits, examples, inputs)


def data_of_examples(
    splits: Mapping[str, Sequence[dspy.Example]], inputs: Sequence[str] | None = None
) -> Data:
    """Take examples that were made in Python as they are.

    Args:
        splits: examples by split name.
        inputs: the input fields; those that examples have, when left out.

    Raises:
        InvalidInput: a split is empty, an example says not what its inputs are or holds a value
            that JSON lacks, or inputs stand in two splits.
    """
    rows = {name: rows_of(examples, name) for name, examples in splits.items()}
    found = (name for each in splits.values() for one in each for name in one.inputs().keys())
    return _data(rows, splits, tuple(dict.fromkeys(found)) if inputs is None else inputs)


def rows_of(examples: Sequence[dspy.Example], split: str) -> list[Row]:
    """What examples made in Python say, as JSON values.

    Raises:
        InvalidInput: there are none, or one says not what its inputs are or holds a value that
            JSON lacks.
    """
    if not examples:
        raise InvalidInput(f"the {split} split is empty; give at least one example")
    return [_row(example, f"{split} example {n}") for n, example in enumerate(examples)]


def check_example(example: object, place: str) -> None:
    """Refuse what is no example, or says not what its inputs are.

    Raises:
        InvalidInput: naming it as `place`.
    """
    if not isinstance(example, dspy.Example) or not getattr(example, "_input_keys", None):
        raise InvalidInput(
            f"{place} says not what its inputs are; make it with dspy.Example(...).with_inputs(...)"
        )


def _row(example: dspy.Example, place: str) -> Row:
    check_example(example, place)
    values = example.toDict()
    for name, value in values.items():
        try:
            sha256_json(value)
        except (TypeError, ValueError, RecursionError):
            raise InvalidInput(
                f"{place}: field {name!r} holds a {type(value).__name__} that JSON cannot hold; "
                "give texts, numbers, lists and objects"
            ) from None
    return Row(values, place)


def _example(
    row: Row, inputs: Sequence[str], typed: Callable[[dict[str, Any]], dict[str, Any]]
) -> dspy.Example:
    try:
        values = typed(row.values)
    except InvalidInput as error:
        raise InvalidInput(f"{row.place}: {error}") from None
    return dspy.Example(**values).with_inputs(*inputs)


def _data(
    rows: Mapping[str, Sequence[Row]],
    examples: Mapping[str, Sequence[dspy.Example]],
    inputs: Sequence[str],
) -> Data:
    _refuse_shared(rows, inputs)
    splits = {
        name: Split(
            name, tuple(each), tuple(examples[name]), sha256_json([row.values for row in each])
        )
        for name, each in rows.items()
    }
    return Data(tuple(inputs), **splits)


def _refuse_shared(splits: Mapping[str, Sequence[Row]], inputs: Sequence[str]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    shared: list[tuple[str, str]] = []
    for name, rows in splits.items():
        for row in rows:
            other, place = seen.setdefault(_key(row, inputs), (name, row.place))
            if other != name:
                shared.append((row.place, place))
    if shared:
        here, there = shared[0]
        more = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
        raise InvalidInput(
            f"{here} has the same inputs as {there}{more}; remove one of the two, "
            "or scores would be measured on examples the optimizer has seen"
        )


def _key(row: Row, inputs: Sequence[str]) -> str:
    return sha256_json([row.values.get(name) for name in inputs])


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"{place}: not JSON ({error.msg}, column {error.colno}); write one object a line"
        ) from None
    except RecursionError:
        raise InvalidInput(f"{place}: nested too deeply to read") from None
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise InvalidInput(f"{place}: a {kind}, not a JSON object; write {{...}} on each line")
    return values
