"""Checking values (data lines, examples, requests) against a record's types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypeAlias

from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.registry.field_types import DECISIONS, Named
from dspy_toolkit.registry.python_types import TypeBuilder, plain_named
from dspy_toolkit.registry.record import FieldRecord, KeyPath, SignatureRecord

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Scope: TypeAlias = Literal["inputs", "outputs", "all"]

_SHOWN = 80
_EXPECTED = {
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "string_pattern_mismatch": "text that matches {pattern}",
    "literal_error": "{expected}",
}


@dataclass(frozen=True, slots=True)
class ValueProblem:
    """One field that does not fit; `what` names the field and the value, `fix` what is expected."""

    field: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


class InvalidValues(InvalidInput):
    """Values do not fit a record.

    Attributes:
        problems: one for each field that is wrong.
    """

    def __init__(self, record: SignatureRecord, problems: tuple[ValueProblem, ...]) -> None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{record.reference}: {problems[0]}{more}")
        self.problems = problems


def validate_values(record: SignatureRecord, scope: Scope, values: Mapping[str, Any]) -> None:
    """Check JSON values by field name against the types and constraints of a record.

    Types are strict: `"1"` is no int and `1` is no str, but a whole number is a float. An
    optional field may be left out. A decision (Choice, Noul, Score) is given as its plain value
    or as an object with `value` and `confidence`.

    Args:
        record: the types.
        scope: "inputs", "outputs", or "all" for both in one flat mapping.
        values: by field name; an unknown name is wrong.

    Raises:
        InvalidValues: with every problem.
    """
    problems = value_problems(record, scope, values)
    if problems:
        raise InvalidValues(record, problems)


def value_problems(
    record: SignatureRecord, scope: Scope, values: Mapping[str, Any]
) -> tuple[ValueProblem, ...]:
    """Every field that does not fit; see `validate_values`."""
    from pydantic import ValidationError

    adapter = _adapter(record, scope)
    try:
        adapter.validate_python(dict(values))
    except ValidationError as error:
        fields = {each.name: each for each in _fields(record, scope)}
        located = [(*_locate(each, values), each) for each in error.errors(include_url=False)]
        paths = [path for path, _, _ in located]
        # Of the errors of a union, those that lie deepest are meant.
        found = (
            _problem(path, value, each, fields)
            for path, value, each in located
            if not any(path == other[: len(path)] != other for other in paths)
        )
        return tuple(dict.fromkeys(found))
    return ()


def json_schema(record: SignatureRecord, scope: Scope) -> dict[str, Any]:
    """The JSON Schema (2020-12) of the values that `validate_values` accepts."""
    schema = _adapter(record, scope).json_schema()
    for each in _fields(record, scope):
        if each.description:
            schema["properties"][each.name]["description"] = each.description
    return schema


def pattern_problem(pattern: str) -> str | None:
    """Why a regular expression cannot be used, or None.

    Patterns run in linear time, so look-around and back-references are not supported.
    """
    from pydantic import Field, TypeAdapter
    from pydantic_core import SchemaError

    try:
        TypeAdapter(Annotated[str, Field(pattern=pattern)])
    except SchemaError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else "it is invalid"
    return None


class _Values(TypeBuilder):
    """Nested objects as strict typed dicts, which check plain JSON without making objects."""

    def object(self, name: str, fields: tuple[FieldRecord, ...]) -> Any:
        from pydantic import Field

        members: dict[str, Any] = {}
        for each in fields:
            kind = self.field(each)
            if each.description:
                kind = Annotated[kind, Field(description=each.description)]
            members[each.name] = NotRequired[kind] if each.optional else kind
        return _strict_dict(name, members)

    def named(self, kind: Named) -> Any:
        from pydantic import Field

        plain = plain_named(kind)
        if kind.name not in DECISIONS:
            return plain
        probability = Annotated[float, Field(ge=0, le=1)]
        members = {
            "value": plain,
            "confidence": probability,
            "probability": NotRequired[probability],
            "probabilities": NotRequired[dict[str, probability]],
            "level": NotRequired[int],
        }
        return plain | _strict_dict(f"{kind.name}Evidence", members)


def _strict_dict(name: str, members: dict[str, Any]) -> Any:
    # Before Python 3.12 pydantic takes only this one.
    import typing_extensions
    from pydantic import ConfigDict

    make: Any = typing_extensions.TypedDict
    made = make(name, members)
    made.__pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return made


@lru_cache(maxsize=256)
def _adapter(record: SignatureRecord, scope: Scope) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(_Values(record).object(record.name, _fields(record, scope)))


def _fields(record: SignatureRecord, scope: Scope) -> tuple[FieldRecord, ...]:
    return record.all_fields if scope == "all" else record.fields(scope)


def _problem(path: KeyPath, value: Any, error: Any, fields: dict[str, FieldRecord]) -> ValueProblem:
    kind, name = error["type"], str(path[0])
    if kind == "missing":
        fix = "add it" if len(path) > 1 else f"expected {fields[name].type}"
        return ValueProblem(name, f"field {_path(path)} is missing", fix)
    if kind == "extra_forbidden":
        fix = nearest(name, fields) if len(path) == 1 else "remove it"
        return ValueProblem(name, f"field {_path(path)} is not in the signature", fix)
    if kind in _EXPECTED and len(path) == len(error["loc"]):
        expected = _EXPECTED[kind].format(**error["ctx"])
    elif len(path) == 1:
        expected = fields[name].type
    else:
        expected = error["msg"].removeprefix("Input should be ")
    return ValueProblem(name, f"field {_path(path)} is {_shown(value)}", f"expected {expected}")


def _locate(error: Any, values: Any) -> tuple[KeyPath, Any]:
    """The keys of an error's location, without the names of union members between them."""
    path: list[str | int] = []
    for part in error["loc"]:
        inside = isinstance(values, Mapping) and part in values
        if inside or (isinstance(values, list) and isinstance(part, int)):
            path.append(part)
            values = values[part]
    if error["type"] == "missing":
        path.append(error["loc"][-1])
    return tuple(path), values


def _path(path: KeyPath) -> str:
    text = str(path[0]) + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[1:]
    )
    return repr(text)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
