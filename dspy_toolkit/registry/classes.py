"""Python signature classes as records, told apart by what they have, so without importing DSPy."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dspy_toolkit.errors import InvalidInput, NotFound, ToolkitError, nearest
from dspy_toolkit.registry.build import built
from dspy_toolkit.registry.class_source import exported_reference
from dspy_toolkit.registry.field_types import (
    NAMED,
    NONE,
    DictOf,
    ListOf,
    LiteralOf,
    Named,
    ObjectRef,
    Scalar,
    Type,
    render_type,
    union,
)
from dspy_toolkit.registry.local_modules import holds, importing_from
from dspy_toolkit.registry.reading import existing
from dspy_toolkit.registry.record import SignatureRecord

UNVERSIONED = "0.0.0"

_SCALARS = {str: "str", int: "int", float: "float", bool: "bool", type(None): "None"}
_CONSTRAINTS = {
    "ge": "minimum",
    "le": "maximum",
    "min_length": "min_length",
    "max_length": "max_length",
    "pattern": "pattern",
}
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class _Inexpressible(Exception):
    """A type, constraint or default that a record cannot hold."""


def load_class(reference: str, folders: Sequence[Path] = ()) -> SignatureRecord:
    """Read a DSPy signature class as a record of version 0.0.0.

    Args:
        reference: `module:Class`.
        folders: looked in for the module first; the working folder last, after what is installed.
            A module found in a folder is imported anew, apart from those of other folders.

    Raises:
        NotFound: no such folder, module or class. InvalidInput: the module fails, the class is no
            signature, or a field cannot be expressed, with its name.
    """
    return from_class(_class(reference, folders)[0], reference)


def import_class(reference: str, folders: Sequence[Path] = ()) -> SignatureRecord:
    """Read a class as `load_class` does; one that was exported has its name and version again."""
    cls, module = _class(reference, folders)
    record = from_class(cls, reference)
    exported = exported_reference(module.__doc__, cls.__name__)
    return replace(record, name=exported[0], version=exported[1]) if exported else record


def _class(reference: str, folders: Sequence[Path]) -> tuple[Any, types.ModuleType]:
    module_name, _, class_name = reference.partition(":")
    place = _place(module_name, folders)
    with importing_from(place.absolute()) if place else contextlib.nullcontext():
        module = _module(module_name, reference)
    cls = getattr(module, class_name, None)
    if cls is None:
        classes = [name for name, each in vars(module).items() if hasattr(each, "input_fields")]
        raise NotFound(
            f"module {module_name} has no class {class_name!r}; {nearest(class_name, classes)}"
        )
    return cls, module


def from_class(cls: Any, reference: str) -> SignatureRecord:
    """The record of a class that has `input_fields`, `output_fields` and `instructions`.

    Raises:
        InvalidInput: it has not, or something in it cannot be expressed as a record.
    """
    try:
        inputs, outputs, instructions = cls.input_fields, cls.output_fields, cls.instructions
    except AttributeError:
        raise InvalidInput(
            f"{reference} is no DSPy signature; name a subclass of dspy.Signature"
        ) from None
    reader = _ClassReader(reference)
    tables = {
        "name": _HUMP.sub("_", cls.__name__).lower(),
        "version": UNVERSIONED,
        "instructions": instructions,
        "inputs": reader.fields(inputs),
        "outputs": reader.fields(outputs),
        "objects": reader.objects,
    }
    return built(tables, f"{reference} cannot be a signature record")


def _place(module: str, folders: Sequence[Path]) -> Path | None:
    """The folder to import a module from, or None where the process can import it anyway."""
    top = module.partition(".")[0]
    for folder in existing(folders):
        if holds(folder, top):
            return folder
    known = top in sys.modules or importlib.util.find_spec(top) is not None
    return None if known else Path.cwd()


def _module(name: str, reference: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise NotFound(
                f"module {name!r} of signature {reference} is not found; "
                "run from the folder that holds it, or install it"
            ) from None
        raise InvalidInput(f"module {name!r} cannot be imported: {error}; install it") from error
    except ToolkitError:
        raise
    except Exception as error:  # the user's module may raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise InvalidInput(
            f"module {name!r} cannot be imported: {type(error).__name__}: {reason}; mend it"
        ) from error


class _ClassReader:
    """Turns pydantic field infos into field tables, and models met on the way into objects."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._models: dict[str, Any] = {}
        self.objects: dict[str, dict[str, Any]] = {}

    def fields(self, infos: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
        tables = {}
        for name, info in infos.items():
            try:
                tables[name] = self._field(name, info)
            except _Inexpressible as error:
                raise InvalidInput(
                    f"{self._reference} cannot be a signature record: field {inside + name!r}: "
                    f"{error}"
                ) from None
        return tables

    def _field(self, name: str, info: Any) -> dict[str, Any]:
        if not info.is_required() and info.default is not None:
            raise _Inexpressible(
                "it has a default, which records do not hold; make its type `X | None`"
            )
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, Mapping) else {}
        description = extra.get("desc") or info.description or ""
        annotation, metadata = _hoisted(info.annotation)
        table: dict[str, Any] = {
            "type": render_type(self._type(annotation)),
            "description": "" if description == f"${{{name}}}" else description,
        }
        for item in (*info.metadata, *metadata):
            table.update(_constraints(item))
        return table

    def _type(self, annotation: Any) -> Type:
        if annotation in _SCALARS:
            return Scalar(_SCALARS[annotation])
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Literal:
            return self._literal(arguments)
        if origin is list:
            return ListOf(self._type(arguments[0]))
        if origin is dict:
            key = self._type(arguments[0])
            if isinstance(key, Scalar | LiteralOf) and _holds_texts(key):
                return DictOf(key, self._type(arguments[1]))
        if origin in (Union, types.UnionType):
            return union(tuple(self._type(each) for each in arguments))
        if isinstance(annotation, type) and (named := _named(annotation)):
            return named
        if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
            return self._object(annotation)
        raise _Inexpressible(
            f"type {_shown(annotation)} cannot be expressed; use str, int, float, bool, Literal, "
            "list[...], dict[str, ...], X | None or a pydantic model"
        )

    def _literal(self, options: tuple[Any, ...]) -> Type:
        rest = tuple(option for option in options if option is not None)
        if not all(isinstance(option, str | int) and type(option) in _SCALARS for option in rest):
            raise _Inexpressible("a Literal may hold texts, whole numbers and booleans only")
        return union((LiteralOf(rest), NONE)) if len(rest) < len(options) else LiteralOf(rest)

    def _object(self, model: Any) -> ObjectRef:
        name = model.__name__
        if self._models.setdefault(name, model) is not model:
            raise _Inexpressible(f"two different models are called {name}; rename one")
        if name not in self.objects:
            self.objects[name] = {}
            self.objects[name].update(self.fields(model.model_fields, f"{name}."))
        return ObjectRef(name)


def _holds_texts(key: Scalar | LiteralOf) -> bool:
    if isinstance(key, LiteralOf):
        return all(isinstance(option, str) for option in key.options)
    return key.name == "str"


def _hoisted(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Take constraints off the one member beside None, where a record keeps them too."""
    if get_origin(annotation) is Annotated:
        return annotation.__origin__, annotation.__metadata__
    if get_origin(annotation) in (Union, types.UnionType):
        arguments = get_args(annotation)
        members = [each for each in arguments if each is not type(None)]
        if len(members) == 1 and get_origin(members[0]) is Annotated:
            return members[0].__origin__ | None, members[0].__metadata__
    return annotation, ()


def _constraints(item: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(item, "metadata") and hasattr(item, "json_schema_extra"):
        for inner in item.metadata:
            yield from _constraints(inner)
        return
    given = {
        key: value
        for key in (*_CONSTRAINTS, "gt", "lt", "multiple_of", "strict")
        if (value := getattr(item, key, None)) is not None
    }
    unknown = [key for key in given if key not in _CONSTRAINTS]
    if unknown or not given:
        shown = f"{unknown[0]}={given[unknown[0]]!r}" if unknown else _shown(item)
        raise _Inexpressible(
            f"constraint {shown} cannot be expressed; use ge, le, min_length, max_length or pattern"
        )
    for key, value in given.items():
        yield _CONSTRAINTS[key], getattr(value, "pattern", value)


def _named(cls: type) -> Named | None:
    """The type of DSPy's that a class is or configures."""
    for base in cls.__mro__:
        if base.__module__.split(".")[0] == "dspy" and base.__name__ in NAMED:
            return Named(base.__name__, _arguments(base.__name__, cls))
    return None


def _arguments(name: str, cls: Any) -> tuple[Any, ...]:
    if name == "Code":
        language = str(cls.language)
        return () if language == "python" else (language,)
    criteria = cls.criteria() if hasattr(cls, "criteria") else None
    if criteria is None:
        return ()
    if name == "Score":
        described = [(level, level) for level in criteria]
    elif name == "Noul":
        described = [(label == "true", text) for label, text in criteria.items()]
    else:
        options = get_args(cls.model_fields["value"].annotation)
        described = [(option, criteria[str(option)]) for option in options]
    if not all(isinstance(text, str) for _, text in described):
        raise _Inexpressible(f"the options of {name} need descriptions that are texts")
    return tuple(text for _, text in described) if name == "Score" else tuple(described)


def _shown(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else repr(value)
