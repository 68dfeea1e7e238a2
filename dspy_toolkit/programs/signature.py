"""DSPy signatures from registry records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import dspy
from dspy.adapters.types.decision import Choice, Noul, Score
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, ValidationInfo

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.registry import (
    FieldRecord,
    SignatureRecord,
    constraint_keywords,
    find,
    python_type,
)
from dspy_toolkit.registry.field_types import (
    DECISIONS,
    MEDIA,
    ListOf,
    Named,
    Type,
    UnionOf,
)

DSPY_TYPES: dict[str, Any] = {
    "Image": dspy.Image,
    "Audio": dspy.Audio,
    "File": dspy.File,
    "History": dspy.History,
    "Code": dspy.Code,
    "Choice": Choice,
    "Noul": Noul,
    "Score": Score,
}
"""The class that each of the registry's named types stands for."""

_made: dict[str, SignatureRecord] = {}
_ADDRESSES = ("data:", "http://", "https://")
# As DSPy words them, so that a prompt does not depend on who made the signature.
_WORDS = {
    "minimum": "greater than or equal to: {}",
    "maximum": "less than or equal to: {}",
    "min_length": "minimum length: {}",
    "max_length": "maximum length: {}",
    "pattern": "matches the pattern: {}",
}


def load_signature(
    reference: str, folders: Sequence[Path] | None = None, settings: Settings | None = None
) -> type[dspy.Signature]:
    """A signature of the registry as a DSPy class.

    Args:
        reference: `name` for its highest version, `name@1.0.0`, or `module:Class`.
        folders: searched first.
        settings: where the user's signatures lie; read from the environment when left out.

    Raises:
        As `registry.find`.
    """
    return dspy_signature(find(reference, folders, settings))


@lru_cache(maxsize=256)
def dspy_signature(record: SignatureRecord) -> type[dspy.Signature]:
    """The DSPy signature of a record, the same class for equal records.

    Descriptions and constraints show in prompts; nested objects become pydantic models. Answers
    are held against the constraints by the toolkit's prompt formats (`programs.formats`).
    `record_of` gives the record back.
    """
    fields = {each.name: _field(each, record, dspy.InputField) for each in record.inputs}
    fields |= {each.name: _field(each, record, dspy.OutputField) for each in record.outputs}
    made: type[dspy.Signature] = dspy.Signature(
        fields, record.instructions, signature_name=record.name
    )
    _made[record.digest] = record
    return made


def record_of(signature: type[dspy.Signature]) -> SignatureRecord | None:
    """The record a signature was made from in this process, or None for any other signature."""
    same = (each for each in list(_made.values()) if _equal(dspy_signature(each), signature))
    return next(same, None)


def _equal(one: type[dspy.Signature], other: type[dspy.Signature]) -> bool:
    # DSPy's own comparison leaves the types out.
    return bool(one.equals(other)) and all(
        one.fields[name].annotation == other.fields[name].annotation for name in one.fields
    )


def typed_values(
    record: SignatureRecord, values: Mapping[str, Any], folder: Path | None = None
) -> dict[str, Any]:
    """JSON values, already checked against the record, as the Python values programs get.

    Nested objects become pydantic models and media DSPy's types. Decisions stay as they are: a
    label is a plain value while an answer carries its probabilities.

    Args:
        record: the types.
        values: by field name.
        folder: media may be given as paths of files in it; elsewhere only as URLs and data URIs.

    Raises:
        InvalidInput: a medium cannot be read.
    """
    fields = {each.name: each for each in record.all_fields}
    return {name: _typed(fields[name], record, value, folder) for name, value in values.items()}


def media_files(record: SignatureRecord, values: Mapping[str, Any]) -> list[str]:
    """Paths among the values of media fields, as they were written."""
    found = []
    for field in record.all_fields:
        value = values.get(field.name)
        for item in value if isinstance(value, list) else [value]:
            if _is_medium(field.parsed) and isinstance(item, str):
                found += [] if item.startswith(_ADDRESSES) else [item]
    return found


def _is_medium(kind: Type) -> bool:
    match kind:
        case Named(name):
            return name in MEDIA
        case ListOf(item):
            return _is_medium(item)
        case UnionOf(members):
            return any(map(_is_medium, members))
    return False


def _typed(field: FieldRecord, record: SignatureRecord, value: Any, folder: Path | None) -> Any:
    kind = field.parsed
    members = kind.members if isinstance(kind, UnionOf) else (kind,)
    if any(isinstance(each, Named) and each.name in DECISIONS for each in members):
        return value
    try:
        return _adapter(field, record).validate_python(value, context={"folder": folder})
    except (ValidationError, OSError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InvalidInput(f"field {field.name!r} cannot be read: {problem}") from None


@lru_cache(maxsize=1024)
def _adapter(field: FieldRecord, record: SignatureRecord) -> TypeAdapter[Any]:
    media = {name: Annotated[DSPY_TYPES[name], BeforeValidator(_reader(name))] for name in MEDIA}
    return TypeAdapter(python_type(field, record, {**DSPY_TYPES, **media}))


def _reader(name: str) -> Callable[[Any, ValidationInfo], Any]:
    cls = DSPY_TYPES[name]

    def read(value: Any, info: ValidationInfo) -> Any:
        folder = info.context and info.context.get("folder")
        if not isinstance(value, str):
            return value
        if value.startswith(_ADDRESSES):
            return cls(value)
        if folder is None:
            raise ValueError(f"{value[:60]!r} is neither a URL nor a data URI")
        file = (folder / value).resolve()
        # A data file must not be able to carry the user's other files into a prompt.
        if not file.is_relative_to(folder.resolve()):
            raise ValueError(f"{value!r} lies outside {folder}")
        return cls.from_path(str(file))

    return read


def _field(field: FieldRecord, record: SignatureRecord, kind: Any) -> tuple[Any, Any]:
    info = kind(desc=field.description) if field.description else kind()
    words = [_WORDS[key].format(value) for key, value in field.constraints.items()]
    if words:
        info.json_schema_extra["constraints"] = ", ".join(words)
    return _annotation(field, record), info


def _annotation(field: FieldRecord, record: SignatureRecord) -> Any:
    kind = field.parsed
    if isinstance(kind, UnionOf) and len(kind.members) - kind.optional > 1:
        return python_type(field, record, DSPY_TYPES)
    # On the outside the constraints do not clutter the type's name in prompts.
    plain = python_type(field, record, DSPY_TYPES, constrained=False)
    keywords = constraint_keywords(field)
    return Annotated[plain, Field(**keywords)] if keywords else plain
