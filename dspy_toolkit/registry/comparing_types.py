"""Whether one type takes all values of another: the question behind every verdict on types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from dspy_toolkit.registry.field_types import (
    DictOf,
    ListOf,
    LiteralOf,
    Named,
    Scalar,
    Type,
    UnionOf,
    render_type,
)
from dspy_toolkit.registry.record import CONSTRAINTS, FieldRecord

Comparison: TypeAlias = tuple[str, bool, bool]
"""What changed, whether new values are possible, whether old values are refused."""

_OPTION_TYPES = {bool: "bool", int: "int", str: "str"}


def compare_types(old: Type, new: Type) -> Iterator[Comparison]:
    """The change from one type to another, if there is one."""
    before, after = render_type(old), render_type(new)
    if before == after:
        return
    widened, narrowed = not fits(new, old), not fits(old, new)
    word = {
        (False, False): "written differently",
        (True, False): "widened",
        (False, True): "narrowed",
        (True, True): "changed",
    }[widened, narrowed]
    yield f"type {word} from {before} to {after}", widened, narrowed


def compare_constraints(old: FieldRecord, new: FieldRecord) -> Iterator[Comparison]:
    """The changes of constraints, one each."""
    for key in CONSTRAINTS:
        before, after = getattr(old, key), getattr(new, key)
        if before == after:
            continue
        if before is None or after is None:
            widened, narrowed = after is None, before is None
        elif key == "pattern":
            widened = narrowed = True
        else:
            rises = after > before
            narrowed = rises if key.startswith("min") else not rises
            widened = not narrowed
        what = f"{key} {_shown(before)} became {_shown(after)}"
        yield what, widened, narrowed


def _shown(value: object) -> str:
    return "(none)" if value is None else repr(value)


def fits(value: Type, into: Type) -> bool:
    """Whether every value of a type is a value of the other.

    Nested objects of one name count as the same; their fields are compared on their own.
    """
    if isinstance(value, UnionOf):
        return all(fits(member, into) for member in value.members)
    if isinstance(value, LiteralOf):
        return all(_option_fits(type(option), option, into) for option in value.options)
    if isinstance(into, UnionOf):
        return any(fits(value, member) for member in into.members)
    match value, into:
        case Scalar("int"), Scalar("float"):
            return True
        case ListOf(inner), ListOf(outer):
            return fits(inner, outer)
        case DictOf(key, inner), DictOf(outer_key, outer):
            return fits(key, outer_key) and fits(inner, outer)
        case Named(), Named():
            return _named_fits(value, into)
        case Scalar("bool"), LiteralOf(options):
            return True in options and False in options and {bool} <= set(map(type, options))
    return value == into


def _option_fits(kind: type, option: object, into: Type) -> bool:
    match into:
        case UnionOf(members):
            return any(_option_fits(kind, option, member) for member in members)
        case LiteralOf(options):
            return (kind, option) in [(type(each), each) for each in options]
        case Scalar("float"):
            return kind is int
        case Scalar(name):
            return _OPTION_TYPES[kind] == name
    return False


def _named_fits(value: Named, into: Named) -> bool:
    if value.name != into.name:
        return False
    match value.name:
        case "Choice":
            offered = [(type(pair[0]), pair[0]) for pair in value.arguments]
            known = [(type(pair[0]), pair[0]) for pair in into.arguments]
            return all(option in known for option in offered)
        case "Score":
            return len(value.arguments) == len(into.arguments)
        case "Noul":
            return True
    return value == into
