"""Field types as values, and the one canonical text of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

Option: TypeAlias = str | int | bool

SCALARS = ("str", "int", "float", "bool")
MEDIA = ("Image", "Audio", "File")
DECISIONS = ("Choice", "Noul", "Score")
NAMED = (*MEDIA, "History", "Code", *DECISIONS)
"""Types that DSPy brings. Level 2 says which Python class each stands for."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """`str`, `int`, `float`, `bool`; or `None`, which only a union holds."""

    name: str


@dataclass(frozen=True, slots=True)
class LiteralOf:
    """One of the options, which are texts, whole numbers or booleans."""

    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one type."""

    item: Type


@dataclass(frozen=True, slots=True)
class DictOf:
    """A mapping; keys are `str` or a `Literal` of texts, as in JSON."""

    key: Scalar | LiteralOf
    value: Type


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """A nested object declared in the same record."""

    name: str


@dataclass(frozen=True, slots=True)
class Named:
    """A type of DSPy's: `Image`, `Code['python']`, `Choice[('a', 'when a'), ...]` and so on.

    `arguments` are texts for Score and Code, (option, description) pairs for Choice and Noul.
    """

    name: str
    arguments: tuple[str | tuple[Option, str], ...] = ()


@dataclass(frozen=True, slots=True)
class UnionOf:
    """`X | None`, or a choice between scalars and literals; `None` stands last."""

    members: tuple[Type, ...]

    @property
    def optional(self) -> bool:
        """Whether `None` is a member."""
        return NONE in self.members


Type: TypeAlias = Scalar | LiteralOf | ListOf | DictOf | ObjectRef | Named | UnionOf
NONE = Scalar("None")


def render_type(kind: Type) -> str:
    """Write a type in its canonical form; `parse_type` reads it back to an equal one."""
    match kind:
        case Scalar(name) | ObjectRef(name):
            return name
        case LiteralOf(options):
            return f"Literal[{', '.join(map(repr, options))}]"
        case ListOf(item):
            return f"list[{render_type(item)}]"
        case DictOf(key, value):
            return f"dict[{render_type(key)}, {render_type(value)}]"
        case Named(name, arguments):
            return f"{name}[{', '.join(map(repr, arguments))}]" if arguments else name
        case UnionOf(members):
            return " | ".join(map(render_type, members))


def union(members: tuple[Type, ...]) -> Type:
    """Join types with `|`, `None` last; one member alone is itself."""
    flat = tuple(
        inner
        for member in members
        for inner in (member.members if isinstance(member, UnionOf) else (member,))
    )
    rest = tuple(member for member in flat if member != NONE)
    ordered = (*rest, NONE) if len(rest) < len(flat) else rest
    return ordered[0] if len(ordered) == 1 else UnionOf(ordered)


def required(kind: Type) -> Type:
    """The type without its `None`."""
    if isinstance(kind, UnionOf):
        return union(tuple(member for member in kind.members if member != NONE))
    return kind


def parts(kind: Type) -> Iterator[Type]:
    """The type and every type inside it."""
    yield kind
    match kind:
        case ListOf(item):
            yield from parts(item)
        case DictOf(key, value):
            yield from parts(key)
            yield from parts(value)
        case UnionOf(members):
            for member in members:
                yield from parts(member)
