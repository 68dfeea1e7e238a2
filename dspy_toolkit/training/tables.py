"""TOML tables into frozen records: every key is known, of its type and within its range."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from dspy_toolkit.errors import InvalidInput, nearest, reject_unknown_keys

Record = TypeVar("Record")


class InvalidRecipe(InvalidInput):
    """A recipe has a wrong value, lacks one, or contradicts itself."""


@dataclass(frozen=True)
class Check:
    """What a value must fulfil, how to say so, and what it becomes."""

    text: str
    fits: Callable[[Any], bool]
    becomes: Callable[[Any, Path], Any] = lambda value, folder: value


def read_table(kind: type[Record], table: Mapping[str, Any], where: str, folder: Path) -> Record:
    """Make a record of a table.

    Args:
        kind: a dataclass of `Annotated[type, check]` fields and of records, which are tables.
        table: values by key, as TOML or JSON gives them.
        where: what the table is to the user, for messages.
        folder: what relative paths are relative to.

    Raises:
        UnknownKey: a key is none of the record's. InvalidRecipe: a value is wrong or missing.
    """
    hints = get_type_hints(kind, include_extras=True)
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    reject_unknown_keys(table, fields, where)
    values: dict[str, Any] = {}
    for name, spec in fields.items():
        rule = _rule(hints[name])
        if table.get(name) is not None:
            values[name] = _value(name, rule, table[name], where, folder)
        elif spec.default is MISSING and spec.default_factory is MISSING:
            needs = f"give {rule.text}" if isinstance(rule, Check) else f"add a table [{name}]"
            raise InvalidRecipe(f"{where}: {name} is missing; {needs}")
    return kind(**values)


def whole(least: int) -> Check:
    """A whole number of at least `least`."""
    return Check(f"a whole number of at least {least}", lambda value: _is_whole(value, least))


def number(least: float, most: float = math.inf, above: bool = False) -> Check:
    """A finite number from `least` to `most`; `above` leaves `least` itself out."""
    low = f"above {least:g}" if above else f"of at least {least:g}"
    text = f"a number {low}" + ("" if most == math.inf else f" and at most {most:g}")

    def fits(value: Any) -> bool:
        return _is_number(value) and least <= value <= most and not (above and value == least)

    return Check(text, fits, lambda value, folder: float(value))


def one_of(*names: str) -> Check:
    """One of some names."""
    return Check(f"one of {', '.join(names)}", lambda value: value in names)


def text(what: str = "a text") -> Check:
    """A text that is not empty."""
    return Check(what, _is_text)


FLAG = Check("true or false", lambda value: isinstance(value, bool))
TABLE = Check("a table", lambda value: isinstance(value, Mapping), lambda value, _: dict(value))
PATH = Check(
    "a path", lambda value: _is_text(value), lambda value, folder: _absolute(value, folder)
)
PATHS = Check(
    "a path or a list of paths",
    lambda value: _is_text(value) or _is_list(value, _is_text),
    lambda value, folder: tuple(
        _absolute(each, folder) for each in ([value] if isinstance(value, str) else value)
    ),
)
TEXTS = Check(
    "a list of texts", lambda value: _is_list(value, _is_text), lambda value, _: tuple(value)
)
PAIR = Check(
    "a list of two numbers from 0 to below 1",
    lambda value: _is_list(value, lambda v: _is_number(v) and 0 <= v < 1) and len(value) == 2,
    lambda value, _: (float(value[0]), float(value[1])),
)


def _rule(hint: Any) -> Check | type:
    """A field's check, or the record that its table is."""
    if get_origin(hint) is Annotated:
        return next(each for each in get_args(hint)[1:] if isinstance(each, Check))
    kinds = [each for each in get_args(hint) or (hint,) if dataclasses.is_dataclass(each)]
    return kinds[0]  # type: ignore[return-value]


def _value(name: str, rule: Check | type, value: Any, where: str, folder: Path) -> Any:
    if not isinstance(rule, Check):
        if not isinstance(value, Mapping):
            raise InvalidRecipe(f"{where}: {name} must be a table [{name}], got {value!r}")
        return read_table(rule, value, f"{where} [{name}]", folder)
    if not rule.fits(value):
        choices = rule.text.removeprefix("one of ")
        choice = choices != rule.text and isinstance(value, str)
        hint = f"; {nearest(value, choices.split(', '))}" if choice else ""
        raise InvalidRecipe(f"{where}: {name} must be {rule.text}, got {value!r}{hint}")
    return rule.becomes(value, folder)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list(value: Any, each: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(each(item) for item in value)


def _absolute(value: str, folder: Path) -> Path:
    return folder / Path(value).expanduser()
