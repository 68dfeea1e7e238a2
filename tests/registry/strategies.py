"""Made-up types, values and records, all of them sound."""

from __future__ import annotations

import keyword
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dspy_toolkit.registry.build import build
from dspy_toolkit.registry.field_types import (
    NONE,
    DictOf,
    ListOf,
    LiteralOf,
    Named,
    ObjectRef,
    Scalar,
    Type,
    UnionOf,
    render_type,
    union,
)
from dspy_toolkit.registry.record import SignatureRecord
from dspy_toolkit.registry.rules import RESERVED

# No clock: how long a case takes says something about the machine only.
many = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
few = settings(many, max_examples=25)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
instructions = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda text: text.strip() != ""
)
field_names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: name not in RESERVED and not keyword.iskeyword(name) and name[:6] != "model_"
)
record_names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
versions = st.tuples(*[st.integers(0, 99)] * 3).map(lambda parts: ".".join(map(str, parts)))

scalars = st.sampled_from(["str", "int", "float", "bool"]).map(Scalar)
options = st.one_of(texts, st.integers(-99, 99), st.booleans())
literals = st.lists(options, min_size=1, max_size=4, unique_by=lambda each: (type(each), each)).map(
    lambda chosen: LiteralOf(tuple(chosen))
)
text_literals = st.lists(texts, min_size=1, max_size=3, unique=True).map(
    lambda chosen: LiteralOf(tuple(chosen))
)
keys = st.one_of(st.just(Scalar("str")), text_literals)
decisions = st.one_of(
    st.just(Named("Noul")),
    st.tuples(texts, texts).map(lambda two: Named("Noul", ((True, two[0]), (False, two[1])))),
    st.lists(st.tuples(texts, texts), min_size=1, max_size=3, unique_by=lambda pair: pair[0]).map(
        lambda pairs: Named("Choice", tuple(pairs))
    ),
    st.lists(texts, min_size=2, max_size=4).map(lambda levels: Named("Score", tuple(levels))),
)
media = st.sampled_from(["Image", "Audio", "File", "Code"]).map(Named)


def _nested(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    return st.one_of(inner.map(ListOf), st.builds(DictOf, keys, inner))


def plain_types(objects: list[str]) -> st.SearchStrategy[Type]:
    """Types without DSPy's own and without `None`."""
    leaves: st.SearchStrategy[Type] = st.one_of(scalars, literals)
    if objects:
        leaves = st.one_of(leaves, st.sampled_from(objects).map(ObjectRef))
    return st.recursive(leaves, _nested, max_leaves=3)


unions = st.lists(st.one_of(scalars, literals), min_size=2, max_size=3, unique_by=render_type).map(
    lambda members: UnionOf(tuple(members))
)


def field_types(objects: list[str]) -> st.SearchStrategy[Type]:
    """Types of a whole field, some of them optional."""
    whole = st.one_of(plain_types(objects), unions)
    return st.one_of(whole, whole.map(lambda kind: union((kind, NONE))))


any_types = st.one_of(field_types(["Line", "B2"]), decisions, media)


def values(kind: Type, objects: dict[str, dict[str, Type]]) -> st.SearchStrategy[Any]:
    """JSON values of a type; None stands for left out."""
    match kind:
        case Scalar("str"):
            return texts
        case Scalar("int"):
            return st.integers(-(2**60), 2**60)
        case Scalar("float"):
            return st.floats(-(2.0**60), 2.0**60)
        case Scalar("bool"):
            return st.booleans()
        case Scalar():
            return st.none()
        case LiteralOf(chosen):
            return st.sampled_from(chosen)
        case ListOf(item):
            return st.lists(values(item, objects), max_size=3)
        case DictOf(key, value):
            return st.dictionaries(values(key, objects), values(value, objects), max_size=3)
        case UnionOf(members):
            return st.one_of(*(values(member, objects) for member in members))
        case ObjectRef(name):
            fields = {each: values(inner, objects) for each, inner in objects[name].items()}
            return st.fixed_dictionaries(fields)
        case Named("Noul"):
            return st.booleans()
        case Named("Choice", arguments):
            return st.sampled_from([pair[0] for pair in arguments])
        case Named("Score", arguments):
            return st.floats(0, len(arguments) - 1)
    return texts


def _constraints(draw: st.DrawFn, kind: Type) -> dict[str, Any]:
    if kind in (Scalar("int"), Scalar("float")):
        return draw(st.sampled_from([{}, {"minimum": -(2**61)}, {"maximum": 2**61}]))
    if kind == Scalar("str") or isinstance(kind, ListOf | DictOf):
        return draw(st.sampled_from([{}, {"min_length": 0, "max_length": 50}]))
    return {}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """The tables of a sound signature file."""
    kinds: dict[str, dict[str, Type]] = {}
    for name in draw(st.lists(st.sampled_from(["Line", "B2", "Part"]), max_size=2, unique=True)):
        known = list(kinds)
        kinds[name] = draw(st.dictionaries(field_names, field_types(known), min_size=1, max_size=2))
    names = draw(st.lists(field_names, min_size=2, max_size=5, unique=True))
    cut = draw(st.integers(1, len(names) - 1))
    declared = list(kinds)
    sides = {
        "inputs": {name: draw(st.one_of(field_types(declared), media)) for name in names[:cut]},
        "outputs": {
            name: draw(st.one_of(field_types(declared), decisions)) for name in names[cut:]
        },
    }
    examples = [
        {
            side: {name: draw(values(kind, kinds)) for name, kind in fields.items()}
            for side, fields in sides.items()
        }
        for _ in range(draw(st.integers(0, 2)))
    ]
    described = {
        section: {
            name: {
                "type": render_type(kind),
                "description": draw(texts),
                **_constraints(draw, kind),
            }
            for name, kind in fields.items()
        }
        for section, fields in {**sides, **kinds}.items()
    }
    return {
        "name": draw(record_names),
        "version": draw(versions),
        "instructions": draw(instructions),
        "inputs": described.pop("inputs"),
        "outputs": described.pop("outputs"),
        "objects": described,
        "examples": examples,
    }


def built(content: dict[str, Any]) -> SignatureRecord:
    """The record of sound tables."""
    record, problems = build(content)
    assert record is not None, problems
    return record


records = tables().map(built)
