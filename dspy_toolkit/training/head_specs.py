"""Which head answers which output of a signature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, pstdev
from typing import Any

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.registry import FieldRecord, SignatureRecord
from dspy_toolkit.registry.field_types import (
    DictOf,
    ListOf,
    LiteralOf,
    Named,
    Option,
    Scalar,
    Type,
    required,
)

LABEL, LABELS, SPAN, SPANS, TAGS, NUMBER = "label", "labels", "span", "spans", "tags", "number"


@dataclass(frozen=True)
class HeadSpec:
    """A head.

    Attributes:
        field: name of the output it answers.
        kind: "label" (one of `options`), "labels" (any of them), "span" (a run of words of the
            input), "spans" (several), "tags" (several under each of `options`), or "number".
        options: what labels stand for; None among them where the output may be left out.
        optional: whether a span or number may be absent.
        whole: whether a number is rounded.
        mean, spread: of a number in the training data; the head works on the standardised one.
    """

    field: str
    kind: str
    options: tuple[Option | None, ...] = ()
    optional: bool = False
    whole: bool = False
    mean: float = 0.0
    spread: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `HeadSpec.load` reads it back."""
        return {**asdict(self), "options": list(self.options)}

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> HeadSpec:
        """Read what `to_dict` wrote."""
        return cls(**{**values, "options": tuple(values["options"])})


def specs_of(record: SignatureRecord, examples: Sequence[Mapping[str, Any]]) -> list[HeadSpec]:
    """A head for each output.

    Args:
        record: the signature.
        examples: flat values by field name; numbers are standardised by them.

    Raises:
        InvalidInput: an output is of a type that no head can give.
    """
    return [_fitted(_spec(output), examples) for output in record.outputs]


def _spec(field: FieldRecord) -> HeadSpec:
    kind, optional = required(field.parsed), field.optional
    options = _options(kind)
    if options:
        return HeadSpec(field.name, LABEL, (*options, None) if optional else options)
    match kind:
        case Scalar("str"):
            return HeadSpec(field.name, SPAN, optional=optional)
        case Scalar("int" | "float" as name):
            return HeadSpec(field.name, NUMBER, optional=optional, whole=name == "int")
        case ListOf(Scalar("str")):
            return HeadSpec(field.name, SPANS, optional=optional)
        case DictOf(LiteralOf(labels), ListOf(Scalar("str"))):
            return HeadSpec(field.name, TAGS, labels, optional=optional)
        case ListOf(item) if _options(item):
            return HeadSpec(field.name, LABELS, _options(item), optional=optional)
    raise InvalidInput(
        f"output {field.name} is a {field.type}, which no head gives; heads give literals, bool, "
        "numbers, text that stands in the input, lists of literals or such texts, and a dict of "
        "literals to lists of such texts"
    )


def _options(kind: Type) -> tuple[Option, ...]:
    match kind:
        case LiteralOf(options):
            return options
        case Scalar("bool"):
            return (False, True)
        case Named("Choice", arguments):
            return tuple(each[0] for each in arguments if isinstance(each, tuple))
    return ()


def _fitted(spec: HeadSpec, examples: Iterable[Mapping[str, Any]]) -> HeadSpec:
    if spec.kind != NUMBER:
        return spec
    values = [float(each[spec.field]) for each in examples if each.get(spec.field) is not None]
    if not values:
        return spec
    return replace(spec, mean=fmean(values), spread=pstdev(values) or 1.0)
