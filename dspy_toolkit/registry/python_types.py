"""Python typing objects for field types, built with pydantic, which is imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, reduce
from operator import or_
from types import GenericAlias
from typing import Annotated, Any, Literal, Union

from dspy_toolkit.registry.field_types import (
    DictOf,
    ListOf,
    LiteralOf,
    Named,
    ObjectRef,
    Scalar,
    Type,
    UnionOf,
)
from dspy_toolkit.registry.record import FieldRecord, SignatureRecord

_SCALARS: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool, "None": None}
_KEYWORDS = {"minimum": "ge", "maximum": "le"}


def python_type(
    field: FieldRecord,
    record: SignatureRecord,
    named: Mapping[str, Any] | None = None,
    *,
    constrained: bool = True,
) -> Any:
    """The typing object of a field.

    Args:
        field: an input or output of `record`.
        record: declares the nested objects; they become pydantic models, the same class on
            each call for an equal record and `named`.
        named: the class of each of DSPy's types by name (`Image`, `Choice`, ...). Left out,
            they stand as plain values: media, files and code as text, a decision as its value.
        constrained: wrap in `Annotated` with pydantic's `Field` where the field has constraints.
    """
    return _builder(record, None if named is None else tuple(sorted(named.items()))).field(
        field, constrained=constrained
    )


def constraint_keywords(field: FieldRecord) -> dict[str, Any]:
    """The field's constraints as keywords of pydantic's `Field`."""
    return {_KEYWORDS.get(key, key): value for key, value in field.constraints.items()}


class TypeBuilder:
    """Builds typing objects for one record; each nested object is built once.

    A subclass says what a nested object and a type of DSPy's become.
    """

    def __init__(self, record: SignatureRecord) -> None:
        self._declared = {each.name: each.fields for each in record.objects}
        self._built: dict[str, Any] = {}

    def field(self, field: FieldRecord, *, constrained: bool = True) -> Any:
        """The typing object of a field, with its constraints on each member of a union."""
        keywords = constraint_keywords(field) if constrained else {}
        kind = field.parsed
        members = kind.members if isinstance(kind, UnionOf) else (kind,)
        built = [self._constrained(member, keywords) for member in members]
        return _union(built)

    def _constrained(self, member: Type, keywords: dict[str, Any]) -> Any:
        from pydantic import Field

        plain = self.type(member)
        return Annotated[plain, Field(**keywords)] if keywords and plain is not None else plain

    def type(self, kind: Type) -> Any:
        """The typing object of a type."""
        match kind:
            case Scalar(name):
                return _SCALARS[name]
            case LiteralOf(options):
                return Literal[options]
            case ListOf(item):
                return GenericAlias(list, self.type(item))
            case DictOf(key, value):
                return GenericAlias(dict, (self.type(key), self.type(value)))
            case UnionOf(members):
                return _union([self.type(member) for member in members])
            case ObjectRef(name):
                if name not in self._built:
                    self._built[name] = self.object(name, self._declared[name])
                return self._built[name]
            case Named():
                return self.named(kind)

    def object(self, name: str, fields: tuple[FieldRecord, ...]) -> Any:
        """What a nested object becomes: a pydantic model that refuses unknown fields."""
        from pydantic import ConfigDict, Field, create_model

        definitions: dict[str, Any] = {
            each.name: (
                self.field(each),
                Field(None if each.optional else ..., description=each.description or None),
            )
            for each in fields
        }
        return create_model(name, __config__=ConfigDict(extra="forbid"), **definitions)

    def named(self, kind: Named) -> Any:
        """What a type of DSPy's becomes: a plain value."""
        return plain_named(kind)


class _WithClasses(TypeBuilder):
    def __init__(self, record: SignatureRecord, named: Mapping[str, Any]) -> None:
        super().__init__(record)
        self._named = named

    def named(self, kind: Named) -> Any:
        cls = self._named[kind.name]
        if not kind.arguments:
            return cls
        return cls[kind.arguments[0] if kind.name == "Code" else kind.arguments]


def _union(members: list[Any]) -> Any:
    if len(members) == 1:
        return members[0]
    # `X | Y` is cached, and to the cache Literal['a', 'b'] is Literal['b', 'a']: the order that a
    # prompt shows would depend on what was built before.
    uncached = getattr(Union, "_getitem", None)
    return uncached(Union, tuple(members)) if uncached else reduce(or_, members)


def plain_named(kind: Named) -> Any:
    """The plain value that a type of DSPy's stands for in JSON."""
    from pydantic import Field, JsonValue

    match kind.name:
        case "Noul":
            return bool
        case "Choice":
            return Literal[tuple(pair[0] for pair in kind.arguments)]
        case "Score":
            return Annotated[float, Field(ge=0, le=len(kind.arguments) - 1)]
        case "History":
            return dict[Literal["messages"], list[dict[str, JsonValue]]]
    return str


@lru_cache(maxsize=256)
def _builder(record: SignatureRecord, named: tuple[tuple[str, Any], ...] | None) -> TypeBuilder:
    return TypeBuilder(record) if named is None else _WithClasses(record, dict(named))
