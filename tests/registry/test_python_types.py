from __future__ import annotations

from typing import Any, get_args

import dspy
import pytest
from dspy.adapters.types.decision import Choice, Noul, Score
from pydantic import TypeAdapter, ValidationError

from dspy_toolkit.registry import constraint_keywords, python_type
from dspy_toolkit.registry.field_types import NAMED
from dspy_toolkit.registry.rules import RESERVED
from tests.registry.making import record

CLASSES = {
    **{name: getattr(dspy, name) for name in ("Image", "Audio", "File", "History", "Code")},
    "Choice": Choice,
    "Noul": Noul,
    "Score": Score,
}
MADE = record(
    {"picture": "Image", "code": "Code['sql']"},
    {
        "team": "Literal['a', 'b'] | None",
        "lines": {"type": "list[Line] | None", "max_length": 2},
        "first": "Line",
        "sizes": "dict[str, int | float]",
        "count": {"type": "int | float | None", "minimum": 1},
        "urgent": "Noul",
        "kind": "Choice[('a', 'x'), ('b', 'y')]",
        "fit": "Score['poor', 'good']",
    },
    objects={"Line": {"sku": {"type": "str"}, "note": {"type": "str | None"}}},
)
FIELDS = {each.name: each for each in (*MADE.inputs, *MADE.outputs)}


def _type(name: str, **more: Any) -> Any:
    return python_type(FIELDS[name], MADE, **more)


def test_every_type_of_dspys_that_a_record_names_exists() -> None:
    assert set(CLASSES) == set(NAMED)


def test_types_of_dspys_are_those_handed_in() -> None:
    assert _type("picture", named=CLASSES) is dspy.Image
    assert _type("code", named=CLASSES).language == "sql"
    assert _type("urgent", named=CLASSES) is Noul
    assert _type("kind", named=CLASSES) is Choice[("a", "x"), ("b", "y")]
    assert _type("fit", named=CLASSES) is Score["poor", "good"]


def test_without_classes_they_are_plain_values() -> None:
    assert _type("picture") is str
    assert _type("urgent") is bool
    assert get_args(_type("kind")) == ("a", "b")


def test_nested_objects_are_one_class_for_all_fields() -> None:
    line = _type("first")

    assert get_args(get_args(_type("lines", constrained=False))[0]) == (line,)
    assert line(sku="a").note is None
    with pytest.raises(ValidationError):
        line(sku="a", other=1)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("lines", [{"sku": "a"}], [{"sku": "a"}] * 3),
        ("team", None, "c"),
        ("sizes", {"a": 1.5}, {"a": "x"}),
        ("count", 1, 0.5),
    ],
)
def test_constraints_hold_in_the_python_type(name: str, good: Any, bad: Any) -> None:
    adapter = TypeAdapter(_type(name))

    adapter.validate_python(good)
    with pytest.raises(ValidationError):
        adapter.validate_python(bad)


def test_constraints_can_be_had_apart() -> None:
    field = FIELDS["lines"]

    TypeAdapter(_type("lines", constrained=False)).validate_python([{"sku": "a"}] * 3)
    assert constraint_keywords(field) == {"max_length": 2}


def test_options_stand_in_the_order_of_the_file_whatever_was_built_before() -> None:
    other = record({"x": "str"}, {"team": "Literal['b', 'a'] | None"})

    built = [python_type(each.outputs[0], each) for each in (MADE, other, MADE)]

    assert [get_args(get_args(each)[0]) for each in built] == [("a", "b"), ("b", "a"), ("a", "b")]


def test_reserved_names_cover_all_that_dspy_uses() -> None:
    taken = {
        name
        for place in (dspy.Example, dspy.Prediction, dspy.Signature, type(dspy.Signature))
        for name in dir(place)
        if not name.startswith(("_", "model_"))
    }

    assert taken - {"mro", "register"} <= RESERVED
