"""Records as Python source: a signature class that needs DSPy and nothing of the toolkit."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import indent

from dspy_toolkit.registry.field_types import (
    DECISIONS,
    DictOf,
    ListOf,
    LiteralOf,
    Named,
    ObjectRef,
    Type,
    UnionOf,
    parts,
    render_type,
)
from dspy_toolkit.registry.python_types import constraint_keywords
from dspy_toolkit.registry.record import FieldRecord, ObjectRecord, SignatureRecord
from dspy_toolkit.registry.rules import NAME, VERSION

_EXPORTED = ", exported from a signature file."


def class_name(record: SignatureRecord) -> str:
    """The name of the exported class: `answer_question` becomes AnswerQuestion."""
    name = _camel(record.name)
    taken = {each.name for each in record.objects}
    while name in taken:
        name += "Signature"
    return name


def exported_reference(module_doc: str | None, cls_name: str) -> tuple[str, str] | None:
    """Name and version of the record that a class was exported from, by its module's docstring."""
    reference = (module_doc or "").removesuffix(_EXPORTED)
    name, _, version = reference.partition("@")
    if reference == module_doc or not (NAME.fullmatch(name) and VERSION.fullmatch(version)):
        return None
    return (name, version) if cls_name.startswith(_camel(name)) else None


def class_source(record: SignatureRecord) -> str:
    """A Python module with the record as a `dspy.Signature` class.

    Examples and the migration have no place in a class and stay behind.
    """
    kinds = [part for field in _every_field(record) for part in parts(field.parsed)]
    decisions = sorted(
        {part.name for part in kinds if isinstance(part, Named) and part.name in DECISIONS}
    )
    imports = ["import dspy"]
    if record.objects:
        imports.append("import pydantic")
    if decisions:
        imports.append(f"from dspy.adapters.types.decision import {', '.join(decisions)}")
    head = [f'"""{record.reference}{_EXPORTED}"""', ""]
    if any(isinstance(part, LiteralOf) for part in kinds):
        head += ["from typing import Literal", ""]
    blocks = ["\n".join([*head, *imports])]
    blocks += ["\n".join(_object(each)) for each in _inner_first(record.objects)]
    blocks.append("\n".join(_signature(record)))
    return "\n\n\n".join(blocks) + "\n"


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _every_field(record: SignatureRecord) -> Iterator[FieldRecord]:
    yield from record.all_fields
    for each in record.objects:
        yield from each.fields


def _object(record: ObjectRecord) -> Iterator[str]:
    yield f"class {record.name}(pydantic.BaseModel):"
    for field in record.fields:
        default = ["default=None"] if field.optional else []
        yield f"    {_line(field, 'pydantic.Field', 'description', default)}"


def _signature(record: SignatureRecord) -> Iterator[str]:
    yield f"class {class_name(record)}(dspy.Signature):"
    yield indent(_docstring(record.instructions), "    ")
    yield ""
    for field in record.inputs:
        yield f"    {_line(field, 'dspy.InputField', 'desc', [])}"
    for field in record.outputs:
        yield f"    {_line(field, 'dspy.OutputField', 'desc', [])}"


def _line(field: FieldRecord, function: str, described: str, keywords: list[str]) -> str:
    if field.description:
        keywords = [*keywords, f"{described}={field.description!r}"]
    constraints = constraint_keywords(field).items()
    keywords = [*keywords, *(f"{key}={value!r}" for key, value in constraints)]
    return f"{field.name}: {_annotation(field.parsed)} = {function}({', '.join(keywords)})"


def _annotation(kind: Type) -> str:
    match kind:
        case ListOf(item):
            return f"list[{_annotation(item)}]"
        case DictOf(key, value):
            return f"dict[{_annotation(key)}, {_annotation(value)}]"
        case UnionOf(members):
            return " | ".join(map(_annotation, members))
        case Named(name) if name not in DECISIONS:
            return f"dspy.{render_type(kind)}"
    return render_type(kind)


def _docstring(text: str) -> str:
    plain = all(character.isprintable() or character == "\n" for character in text)
    if not plain or "\\" in text or '"""' in text or text.endswith('"'):
        return f"__doc__ = {text!r}"
    return f'"""{text}\n"""' if "\n" in text else f'"""{text}"""'


def _inner_first(objects: tuple[ObjectRecord, ...]) -> list[ObjectRecord]:
    by_name = {each.name: each for each in objects}
    ordered: dict[str, ObjectRecord] = {}

    def place(name: str) -> None:
        for field in by_name[name].fields:
            for part in parts(field.parsed):
                if isinstance(part, ObjectRef) and part.name not in ordered:
                    place(part.name)
        ordered[name] = by_name[name]

    for each in objects:
        place(each.name)
    return list(ordered.values())
