"""What must hold for names, fields and objects beyond their shape."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from dspy_toolkit.registry.field_types import (
    DECISIONS,
    MEDIA,
    NAMED,
    DictOf,
    ListOf,
    Named,
    ObjectRef,
    Scalar,
    Type,
    UnionOf,
    parts,
    render_type,
    required,
)
from dspy_toolkit.registry.record import FieldRecord, KeyPath, ObjectRecord
from dspy_toolkit.registry.values import pattern_problem

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
VERSION = re.compile(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_OBJECT = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
_LARGEST = 10**300
_LARGEST_LENGTH = 10**9

# Names that DSPy's signatures, examples, predictions or predictors use for something else.
RESERVED = frozenset(
    "append append_instructions augmented completions config construct copy delete demos dict "
    "dump_state equals fields from_completions from_orm get get_lm_usage input_fields inputs "
    "insert instructions items json keys labels lm load_state mro new_signature output_fields "
    "parse_file parse_obj parse_raw prepend register schema schema_json set_lm_usage signature "
    "toDict update_forward_refs validate values with_inputs with_instructions "
    "with_updated_fields without".split()
)
_OBJECT_RESERVED = frozenset(
    "construct copy dict from_orm json parse_file parse_obj parse_raw schema schema_json "
    "update_forward_refs validate".split()
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong, at a path of keys and indexes into the record's tables."""

    path: KeyPath
    what: str
    fix: str


def field_name_problem(name: str, *, nested: bool) -> tuple[str, str] | None:
    """What is wrong with a field's name, and the way out."""
    if not _FIELD.fullmatch(name):
        return (
            f"field name {name!r} is not usable",
            "use letters, digits and underscores, a letter first, at most 64",
        )
    reserved = _OBJECT_RESERVED if nested else RESERVED
    if name in reserved or name.startswith("model_") or keyword.iskeyword(name):
        return (f"field name {name!r} is reserved", f"rename it, for example {name + '_text'!r}")
    return None


def object_name_problem(name: str) -> tuple[str, str] | None:
    """What is wrong with the name of a nested object, and the way out."""
    if name in NAMED or name in ("None", "True", "False", "Literal"):
        return f"object name {name!r} is the name of a type", "choose another name"
    if not _OBJECT.fullmatch(name):
        return (
            f"object name {name!r} is not usable",
            "use letters and digits, a capital first, at most 64, for example 'OrderLine'",
        )
    return None


def placement_problem(
    kind: Type, section: str, declared: Collection[str]
) -> tuple[str, str] | None:
    """What is wrong with a type where it stands: `inputs`, `outputs` or `objects`."""
    for part in parts(kind):
        if isinstance(part, ObjectRef) and part.name not in declared:
            close = get_close_matches(part.name, {*declared, *NAMED}, n=1)
            fix = (
                f"did you mean {close[0]!r}?"
                if close
                else f"add [objects.{part.name}.FIELD] with a type"
            )
            return f"object {part.name!r} is not declared under [objects]", fix
        if isinstance(part, UnionOf) and part.optional and part != kind:
            return "only a whole field can be optional", "drop the inner `| None`"
        if not isinstance(part, Named):
            continue
        if part.name in (*MEDIA, "History") and section == "outputs":
            return f"{part.name} works as an input only", "use `str` for what the model writes"
        if part.name in DECISIONS and (section != "outputs" or part != required(kind)):
            return (
                f"{part.name} works as the type of an output only",
                "make it an output of its own"
                if section == "objects"
                else "use `Literal` or `bool`",
            )
        if part.name in DECISIONS and part != kind:
            return f"{part.name} cannot be optional", "drop `| None`"
        if part.name == "History" and part != kind:
            return "History stands alone", "write `History`"
    return None


def constraint_problems(kind: Type, given: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key, what is wrong and the way out, for each constraint that does not fit the type."""
    inner = required(kind)
    members = inner.members if isinstance(inner, UnionOf) else (inner,)
    numbers = all(member in (Scalar("int"), Scalar("float")) for member in members)
    texts = all(member == Scalar("str") for member in members)
    sized = texts or all(isinstance(member, ListOf | DictOf) for member in members)
    for key, value in given.items():
        fits, wanted = {
            "minimum": (numbers, "int or float"),
            "maximum": (numbers, "int or float"),
            "min_length": (sized, "str, list or dict"),
            "max_length": (sized, "str, list or dict"),
            "pattern": (texts, "str"),
        }[key]
        if not fits:
            yield key, f"{key} does not fit {render_type(kind)}", f"it is for {wanted}; remove it"
        elif problem := _constraint_value_problem(key, value, inner):
            yield (key, *problem)
    for low, high in (("minimum", "maximum"), ("min_length", "max_length")):
        least, most = given.get(low), given.get(high)
        if isinstance(least, int | float) and isinstance(most, int | float) and least > most:
            yield low, f"{low} {least} is above {high} {most}", "swap or correct them"


def _constraint_value_problem(key: str, value: Any, kind: Type) -> tuple[str, str] | None:
    if key == "pattern":
        if not isinstance(value, str):
            return f"pattern must be a text, got {value!r}", "put it in single quotes"
        problem = pattern_problem(value)
        return (f"pattern {value!r} is no usable regular expression", problem) if problem else None
    if key in ("min_length", "max_length"):
        if type(value) is not int or not 0 <= value <= _LARGEST_LENGTH:
            return f"{key} must be a whole number from 0 on, got {value!r}", "write for example 10"
        return None
    if type(value) not in (int, float) or not -_LARGEST <= value <= _LARGEST:
        return f"{key} must be a number, got {value!r}", "write for example 0"
    if kind == Scalar("int") and type(value) is not int:
        return f"{key} of an int must be whole, got {value!r}", f"write {math.floor(value)}"
    return None


def cycles(objects: Collection[ObjectRecord]) -> Iterator[Problem]:
    """A problem for each object that contains itself, directly or through others."""
    inside = {each.name: _referenced(each.fields) for each in objects}
    for name in inside:
        chain = _way(name, name, inside, ())
        if chain:
            yield Problem(
                ("objects", name),
                f"object {name!r} contains itself ({' > '.join(chain)})",
                "end the chain with a plain type such as `str`",
            )


def _referenced(fields: tuple[FieldRecord, ...]) -> tuple[str, ...]:
    names = [
        part.name for each in fields for part in parts(each.parsed) if isinstance(part, ObjectRef)
    ]
    return tuple(dict.fromkeys(names))


def _way(
    at: str, goal: str, inside: Mapping[str, tuple[str, ...]], seen: tuple[str, ...]
) -> tuple[str, ...]:
    for name in inside.get(at, ()):
        if name == goal:
            return (*seen, at, goal)
        if name not in seen and (way := _way(name, goal, inside, (*seen, at))):
            return way
    return ()
