from __future__ import annotations

import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.registry import InvalidValues, validate_values
from dspy_toolkit.registry.values import json_schema
from tests.registry.making import record
from tests.registry.strategies import built, few, many, tables

ORDER = record(
    {"text": {"type": "str", "min_length": 2, "max_length": 20}},
    {
        "kind": "Literal['new', 'change']",
        "lines": {"type": "list[Line]", "min_length": 1, "max_length": 2},
        "total": {"type": "float | None", "minimum": 0, "maximum": 10},
        "code": {"type": "str | None", "pattern": "^[A-Z]+$"},
        "amount": {"type": "int | float | None", "minimum": 1},
        "flags": "dict[Literal['a', 'b'], bool] | None",
        "urgent": "Noul",
        "team": "Choice[('red', 'x'), (2, 'y')]",
        "fit": "Score['poor', 'fair', 'good']",
    },
    objects={"Line": {"sku": {"type": "str"}, "count": {"type": "int | None", "minimum": 1}}},
)
GOOD: dict[str, Any] = {
    "text": "Hello",
    "kind": "new",
    "lines": [{"sku": "a", "count": 2}],
    "urgent": True,
    "team": 2,
    "fit": 1.5,
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"total": 3},
        {"total": None, "code": None},
        {"code": "AB"},
        {"amount": 1.5},
        {"flags": {"a": True}},
        {"lines": [{"sku": "a"}, {"sku": "b", "count": None}]},
        {"urgent": {"value": False, "confidence": 0.5, "probability": 0.2}},
        {"team": {"value": "red", "confidence": 1, "probabilities": {"red": 1.0, "2": 0}}},
        {"fit": 2},
    ],
)
def test_values_that_fit_pass(change: dict[str, Any]) -> None:
    validate_values(ORDER, "all", {**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "H"}, "field 'text' is 'H'; expected at least 2 characters"),
        ({"text": "H" * 21}, f"field 'text' is '{'H' * 21}'; expected at most 20 characters"),
        ({"text": 5}, "field 'text' is 5; expected str"),
        ({"kind": "neu"}, "field 'kind' is 'neu'; expected 'new' or 'change'"),
        ({"kind": None}, "field 'kind' is None; expected 'new' or 'change'"),
        ({"lines": []}, "field 'lines' is []; expected at least 1 items"),
        ({"lines": "a"}, "field 'lines' is 'a'; expected list[Line]"),
        ({"lines": [{"sku": 1}]}, "field 'lines[0].sku' is 1; expected a valid string"),
        ({"lines": [{"count": 1}]}, "field 'lines[0].sku' is missing; add it"),
        ({"lines": [{"sku": "a", "count": 0}]}, "field 'lines[0].count' is 0; expected at least 1"),
        ({"lines": [{"sku": "a", "n": 0}]}, "field 'lines[0].n' is not in the signature; remove"),
        ({"total": -1}, "field 'total' is -1; expected at least 0"),
        ({"total": 11.5}, "field 'total' is 11.5; expected at most 10"),
        ({"total": True}, "field 'total' is True; expected float | None"),
        ({"total": float("nan")}, "field 'total' is nan; expected"),
        ({"total": "3"}, "field 'total' is '3'; expected float | None"),
        ({"code": "ab"}, "field 'code' is 'ab'; expected text that matches ^[A-Z]+$"),
        ({"amount": "x"}, "field 'amount' is 'x'; expected int | float | None"),
        ({"flags": {"c": True}}, "field 'flags.c' is True; expected 'a' or 'b'"),
        ({"urgent": "yes"}, "field 'urgent' is 'yes'; expected Noul"),
        ({"urgent": {"value": True}}, "field 'urgent.confidence' is missing"),
        ({"team": "blue"}, "field 'team' is 'blue'; expected Choice[('red', 'x'), (2, 'y')]"),
        ({"team": True}, "field 'team' is True; expected Choice"),
        ({"fit": 2.1}, "field 'fit' is 2.1; expected"),
        ({"teem": 1}, "field 'teem' is not in the signature; did you mean 'team'?"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_is_expected(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValues) as caught:
        validate_values(ORDER, "all", {**GOOD, **change})

    assert str(caught.value).startswith(f"triage@1.0.0: {message}")
    assert len(caught.value.problems) == 1


def test_every_field_that_does_not_fit_is_reported() -> None:
    with pytest.raises(InvalidValues) as caught:
        validate_values(ORDER, "all", {"text": 1, "kind": 2})

    fields = [each.field for each in caught.value.problems]
    assert fields == ["text", "kind", "lines", "urgent", "team", "fit"]
    assert "(and 5 more)" in str(caught.value)


def test_long_values_are_shown_short() -> None:
    with pytest.raises(InvalidValues) as caught:
        validate_values(ORDER, "inputs", {"text": "x" * 5000})

    assert len(str(caught.value)) < 200


def test_inputs_alone_are_checked_without_the_outputs() -> None:
    validate_values(ORDER, "inputs", {"text": "Hello"})

    with pytest.raises(InvalidValues, match="'kind' is not in the signature"):
        validate_values(ORDER, "inputs", {"text": "Hello", "kind": "new"})


@few
@given(tables())
def test_made_values_fit_their_types_and_the_json_schema(content: dict[str, Any]) -> None:
    made = built(content)

    for example in made.examples:
        validate_values(made, "inputs", example["inputs"])
        jsonschema.validate(example["outputs"], json_schema(made, "outputs"))


@many
@given(st.dictionaries(st.sampled_from([*GOOD, "other"]), st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=2), st.integers()),
)))  # fmt: skip
def test_any_json_is_judged_without_a_crash(values: dict[str, Any]) -> None:
    problems: tuple[Any, ...] = ()
    try:
        validate_values(ORDER, "all", values)
    except InvalidValues as error:
        problems = error.problems

    assert {each.field for each in problems} >= {name for name in GOOD if name not in values}


def test_the_json_schema_carries_descriptions_and_limits() -> None:
    made = record(
        {"n": {"type": "int", "minimum": 1, "maximum": 5, "description": "How many."}}, {"s": "str"}
    )

    schema = json_schema(made, "inputs")

    assert schema["properties"]["n"] == {
        "title": "N", "type": "integer", "minimum": 1, "maximum": 5, "description": "How many.",
    }  # fmt: skip
    assert schema["required"] == ["n"]
    assert schema["additionalProperties"] is False


def test_ten_thousand_lines_are_checked_within_a_second_of_processor_time() -> None:
    validate_values(ORDER, "all", GOOD)

    start = time.process_time()
    for _ in range(10_000):
        validate_values(ORDER, "all", GOOD)

    assert time.process_time() - start < 1.0
