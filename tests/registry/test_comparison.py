from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from dspy_toolkit.registry import SignatureRecord, diff
from dspy_toolkit.registry.comparing_types import fits
from dspy_toolkit.registry.type_text import parse_type
from tests.registry.making import record
from tests.registry.strategies import few, records

Fields = dict[str, Any]
TEXT: Fields = {"text": "str"}
TEAM: Fields = {"team": "Literal['a', 'b']"}


@few
@given(records)
def test_a_record_does_not_differ_from_itself(made: SignatureRecord) -> None:
    difference = diff(made, made)

    assert difference.changes == ()
    assert difference.verdict == "compatible"


@few
@given(records, records)
def test_any_two_records_can_be_compared(one: SignatureRecord, other: SignatureRecord) -> None:
    forward, back = diff(one, other), diff(other, one)

    assert (forward.changes == ()) == (back.changes == ())
    assert forward.verdict in ("compatible", "recompile", "breaks")


@pytest.mark.parametrize(
    ("old", "new", "as_input", "as_output"),
    [
        ("int", "float", "recompile", "breaks"),
        ("str", "str | None", "recompile", "breaks"),
        ("Literal['a', 'b']", "Literal['a', 'b', 'c']", "recompile", "breaks"),
        ("Literal['a', 'b']", "str", "recompile", "breaks"),
        ("Literal['a', 'b']", "Literal['b', 'a']", "recompile", "recompile"),
        ("Literal[1, 2]", "int", "recompile", "breaks"),
        ("Literal[True, False]", "bool", "recompile", "recompile"),
        ("Literal[1]", "Literal[True]", "breaks", "breaks"),
        ("str", "int", "breaks", "breaks"),
        ("str", "list[str]", "breaks", "breaks"),
        ("list[int]", "list[float]", "recompile", "breaks"),
        ("dict[Literal['a'], int]", "dict[str, int]", "recompile", "breaks"),
        ("int", "int | str", "recompile", "breaks"),
        ("Image", "str", "breaks", None),
        (None, "Noul", None, None),
        ("Line", "list[Line]", "breaks", "breaks"),
    ],
)
def test_a_wider_type_is_easy_on_inputs_and_hard_on_outputs(
    old: str | None, new: str, as_input: str | None, as_output: str | None
) -> None:
    objects = {"Line": {"sku": {"type": "str"}}}
    if as_input:
        difference = diff(
            record({"x": old}, TEAM, objects=objects), record({"x": new}, TEAM, objects=objects)
        )
        assert difference.verdict == as_input
    if as_output:
        difference = diff(
            record(TEXT, {"x": old}, objects=objects), record(TEXT, {"x": new}, objects=objects)
        )
        assert difference.verdict == as_output
        # Seen the other way round, an output behaves as an input does.
        back = diff(
            record({"x": new}, TEAM, objects=objects), record({"x": old}, TEAM, objects=objects)
        )
        assert back.verdict == as_output


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("Noul", "bool", "breaks"),
        ("bool", "Noul", "breaks"),
        ("Noul", "Noul[(True, 'when so')]", "recompile"),
        ("Choice[('a', 'x')]", "Choice[('a', 'y')]", "recompile"),
        ("Choice[('a', 'x')]", "Choice[('a', 'x'), ('b', 'y')]", "breaks"),
        ("Choice[('a', 'x'), ('b', 'y')]", "Choice[('a', 'x')]", "recompile"),
        ("Score['poor', 'good']", "Score['bad', 'good']", "recompile"),
        ("Score['poor', 'good']", "Score['poor', 'fair', 'good']", "breaks"),
        ("Code['sql']", "Code['python']", "breaks"),
    ],
)
def test_decisions_are_compared_by_what_they_can_say(old: str, new: str, verdict: str) -> None:
    assert diff(record(TEXT, {"x": old}), record(TEXT, {"x": new})).verdict == verdict


@pytest.mark.parametrize(
    ("old", "new", "as_input", "as_output"),
    [
        ({}, {"minimum": 1}, "breaks", "recompile"),
        ({"minimum": 1}, {}, "recompile", "breaks"),
        ({"minimum": 1}, {"minimum": 0}, "recompile", "breaks"),
        ({"maximum": 9}, {"maximum": 5}, "breaks", "recompile"),
    ],
)
def test_constraints_are_compared_by_direction(
    old: Fields, new: Fields, as_input: str, as_output: str
) -> None:
    number = {"type": "int"}
    inputs = [record({"n": {**number, **each}}, TEAM) for each in (old, new)]
    outputs = [record(TEXT, {"n": {**number, **each}}) for each in (old, new)]

    assert diff(*inputs).verdict == as_input
    assert diff(*outputs).verdict == as_output


def test_a_changed_pattern_breaks_either_side() -> None:
    one, other = ({"type": "str", "pattern": each} for each in ("^a", "^b"))

    assert diff(record({"x": one}, TEAM), record({"x": other}, TEAM)).verdict == "breaks"
    assert diff(record(TEXT, {"x": one}), record(TEXT, {"x": other})).verdict == "breaks"


@pytest.mark.parametrize(
    ("new", "where", "what", "verdict"),
    [
        (record(TEXT, TEAM, instructions="Do it well."), "instructions", "changed", "recompile"),
        (record({"text": {"type": "str", "description": "A"}}, TEAM), "inputs.text",
         "description changed", "recompile"),
        (record({**TEXT, "note": "str | None"}, TEAM), "inputs.note", "added", "recompile"),
        (record({**TEXT, "note": "str"}, TEAM), "inputs.note", "added and required", "breaks"),
        (record(TEXT, {**TEAM, "why": "str"}), "outputs.why", "added", "recompile"),
        (record(TEXT, TEAM, examples=[{"inputs": {"text": "x"}, "outputs": {"team": "a"}}]),
         "examples", "changed", "compatible"),
        (record(TEXT, TEAM, "1.1.0", migration={"from": "1.0.0"}), "migration", "changed",
         "compatible"),
    ],
)  # fmt: skip
def test_each_change_has_its_verdict(
    new: SignatureRecord, where: str, what: str, verdict: str
) -> None:
    difference = diff(record(TEXT, TEAM), new)

    assert [(each.where, each.what, each.verdict) for each in difference.changes] == [
        (where, what, verdict)
    ]
    assert difference.verdict == verdict


def test_the_order_of_fields_shows_in_prompts() -> None:
    two = {**TEXT, "note": "str"}
    swapped = dict(reversed(two.items()))

    difference = diff(record(two, TEAM), record(swapped, TEAM))

    assert [each.what for each in difference.changes] == ["fields stand in another order"]
    assert difference.verdict == "recompile"


def test_a_removed_field_breaks_on_either_side() -> None:
    full = record({**TEXT, "note": "str"}, {**TEAM, "why": "str"})

    found = diff(full, record(TEXT, TEAM))

    assert [(each.where, each.what, each.verdict) for each in found.changes] == [
        ("inputs.note", "removed", "breaks"),
        ("outputs.why", "removed", "breaks"),
    ]


def test_a_likely_rename_is_hinted_at() -> None:
    found = diff(record(TEXT, {"urgency": "bool"}), record(TEXT, {"urgent": "bool"}))

    assert found.changes[0].what == "removed"
    assert found.changes[0].hint == "renamed to urgent? then declare it in [migration.renames]"


def test_a_declared_rename_is_one_change() -> None:
    migration = {"from": "1.0.0", "renames": {"urgency": "rush"}}
    new = record(TEXT, {"rush": "bool"}, "2.0.0", migration=migration)

    found = diff(record(TEXT, {"urgency": "bool"}), new)

    assert [(each.where, each.what) for each in found.changes] == [
        ("outputs.urgency", "renamed to rush"),
        ("migration", "changed"),
    ]


def test_changes_inside_nested_objects_are_found_where_they_are_used() -> None:
    def made(line: Fields) -> SignatureRecord:
        return record({"given": "Line"}, {"made": "list[Line]"}, objects={"Line": line})

    old = made({"sku": {"type": "str"}})
    found = diff(old, made({"sku": {"type": "str"}, "count": {"type": "int"}}))

    assert [(each.where, each.what, each.verdict) for each in found.changes] == [
        ("inputs.given.count", "added and required", "breaks"),
        ("outputs.made.count", "added", "recompile"),
    ]


def test_name_version_and_source_are_no_change() -> None:
    one = record(TEXT, TEAM)

    assert diff(one, replace(one, name="other", version="9.0.0")).changes == ()


@pytest.mark.parametrize(
    ("value", "into", "expected"),
    [
        ("int", "int | str", True),
        ("int | str", "str | int | None", True),
        ("int | None", "int", False),
        ("Literal['a', 1]", "Literal['a'] | int", True),
        ("bool", "int", False),
        ("bool", "Literal[True, False, 'x']", True),
        ("bool", "Literal[1, 0]", False),
        ("list[list[int]]", "list[list[float]]", True),
        ("dict[str, int]", "dict[Literal['a'], int]", False),
    ],
)
def test_a_type_fits_another_when_all_its_values_do(value: str, into: str, expected: bool) -> None:
    assert fits(parse_type(value), parse_type(into)) is expected
