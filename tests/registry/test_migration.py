from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.signatures.signature import infer_prefix
from hypothesis import given

from dspy_toolkit.errors import IntegrityError, InvalidInput
from dspy_toolkit.registry import (
    SignatureNotFound,
    SignatureRecord,
    chain,
    load_file,
    migrate,
    python_type,
)
from dspy_toolkit.registry.carry import carry
from dspy_toolkit.registry.program_state import label
from tests.registry.making import record, write
from tests.registry.strategies import few, field_names, many, records

OLD = record(
    {"body": {"type": "str", "description": "The message."}, "topic": "str | None"},
    {"team": "Literal['red', 'green', 'blue']", "urgency": "int"},
)
NEW = record(
    {"ticket": {"type": "str", "description": "The whole message."}, "channel": "str"},
    {"team": "Literal['north', 'south']", "urgency": {"type": "int", "maximum": 3}},
    "2.0.0",
    instructions="Do it well.",
    migration={
        "from": "1.0.0",
        "renames": {"body": "ticket"},
        "defaults": {"channel": "mail"},
        "values": {"team": {"red": "north", "blue": "south"}},
    },
)
LINE = {"body": "Help", "topic": "x", "team": "red", "urgency": 2}


def test_declared_renames_defaults_and_values_carry_a_line() -> None:
    carried = carry(LINE, (OLD, NEW))

    assert carried.values == {"ticket": "Help", "team": "north", "urgency": 2, "channel": "mail"}
    assert carried.dropped == ("topic",)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"team": "green"}, "field 'team' is 'green'; expected 'north' or 'south'"),
        ({"urgency": 5}, "field 'urgency' is 5; expected at most 3"),
    ],
)
def test_a_value_that_no_longer_fits_is_refused_with_the_reason(
    change: dict[str, Any], why: str
) -> None:
    carried = carry({**LINE, **change}, (OLD, NEW))

    assert carried.values is None
    assert carried.why == (why,)


def test_a_new_required_field_without_a_default_is_refused() -> None:
    new = record({"body": "str", "channel": "str"}, {"urgency": "int"}, "2.0.0")

    carried = carry(LINE, (OLD, new))

    assert carried.why == ("field 'channel' is missing; expected str",)


def test_a_label_that_was_never_given_is_not_made_up() -> None:
    unlabelled = {"body": "Help"}
    new = record(
        {"body": "str"}, {"urgency": "int"}, "2.0.0",
        migration={"from": "1.0.0", "defaults": {"urgency": 1}},
    )  # fmt: skip

    assert carry(unlabelled, (OLD, new)).values == {"body": "Help"}


def test_an_optional_field_that_became_required_takes_the_default() -> None:
    new = record(
        {"body": "str", "topic": "str"}, {"urgency": "int"}, "2.0.0",
        migration={"from": "1.0.0", "defaults": {"topic": "none"}},
    )  # fmt: skip

    carried = carry({"body": "a", "topic": None, "urgency": 1}, (OLD, new))

    assert carried.values == {"body": "a", "topic": "none", "urgency": 1}


def test_what_belongs_to_no_field_stays() -> None:
    carried = carry({**LINE, "reasoning": "because", "augmented": True}, (OLD, NEW))

    assert carried.values is not None
    assert carried.values["reasoning"] == "because"
    assert carried.values["augmented"] is True


def test_labels_inside_lists_and_labels_that_are_no_texts_are_carried() -> None:
    old = record({"a": "str"}, {"tags": "list[Literal[1, 2]]", "ok": "bool"})
    new = record(
        {"a": "str"}, {"tags": "list[Literal['one', 'two']]", "ok": "Literal['yes', 'no']"},
        "2.0.0",
        migration={
            "from": "1.0.0",
            "values": {"tags": {"1": "one", "2": "two"}, "ok": {"true": "yes", "false": "no"}},
        },
    )  # fmt: skip

    carried = carry({"a": "x", "tags": [2, 1], "ok": False}, (old, new))

    assert carried.values == {"a": "x", "tags": ["two", "one"], "ok": "no"}


@few
@given(records)
def test_examples_come_through_unchanged_when_the_fields_do(made: SignatureRecord) -> None:
    for example in made.examples:
        flat = {**example["inputs"], **example["outputs"]}

        assert carry(flat, (made, made)).values == flat


def test_the_chain_goes_through_the_versions_that_declare_migrations(tmp_path: Path) -> None:
    text = (
        'name = "triage"\nversion = "{}"\ninstructions = "x"\n'
        '[inputs.a]\ntype = "str"\n[outputs.b]\ntype = "str"\n'
    )
    steps = {"1.0.0": "", "2.0.0": "1.0.0", "3.0.0": "2.0.0", "4.0.0": ""}
    for version, source in steps.items():
        migration = f'[migration]\nfrom = "{source}"\n' if source else ""
        write(tmp_path, text.format(version) + migration, f"triage/{version}.toml")
    found = {version: load_file(tmp_path / "triage" / f"{version}.toml") for version in steps}

    through = chain(found["1.0.0"], found["3.0.0"], [tmp_path])
    direct = chain(found["1.0.0"], found["4.0.0"], [tmp_path])

    assert [each.version for each in through] == ["1.0.0", "2.0.0", "3.0.0"]
    assert [each.version for each in direct] == ["1.0.0", "4.0.0"]
    with pytest.raises(InvalidInput, match="not a later version"):
        chain(found["3.0.0"], found["1.0.0"], [tmp_path])
    (tmp_path / "triage" / "2.0.0.toml").unlink()
    with pytest.raises(SignatureNotFound, match="has no version"):
        chain(found["1.0.0"], found["3.0.0"], [tmp_path])


def _lines(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def test_a_file_of_examples_is_carried_and_the_original_stays(tmp_path: Path) -> None:
    source = _lines(tmp_path / "old.jsonl", LINE, {**LINE, "team": "green"}, LINE)
    before = source.read_bytes()

    report = migrate(source, (OLD, NEW), tmp_path / "new.jsonl")

    rows = [json.loads(row) for row in (tmp_path / "new.jsonl").read_text().splitlines()]
    assert [row["team"] for row in rows] == ["north", "north"]
    assert report.carried == 2
    assert [each.where for each in report.refused] == [f"{source}:2"]
    assert "'green'" in report.refused[0].why
    assert report.notes == ("field 'topic' is no longer there and was dropped",)
    assert source.read_bytes() == before


def test_nothing_is_written_when_nothing_can_be_carried(tmp_path: Path) -> None:
    source = _lines(tmp_path / "old.jsonl", {**LINE, "team": "green"})

    with pytest.raises(InvalidInput, match=r"no example of .* can be carried"):
        migrate(source, (OLD, NEW), tmp_path / "new.jsonl")

    assert sorted(each.name for each in tmp_path.iterdir()) == ["old.jsonl"]


def test_an_existing_output_is_never_overwritten(tmp_path: Path) -> None:
    source = _lines(tmp_path / "old.jsonl", LINE)

    with pytest.raises(InvalidInput, match="already exists"):
        migrate(source, (OLD, NEW), source)

    assert json.loads(source.read_text()) == LINE


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "is not JSON"), ("[]", "is no JSON object"), ("9" * 5000, "holds a number")],
)
def test_a_line_that_is_no_example_is_named(tmp_path: Path, line: str, message: str) -> None:
    source = tmp_path / "old.jsonl"
    source.write_text(f"{json.dumps(LINE)}\n\n{line}\n")

    with pytest.raises(InvalidInput, match=f":3 {message}"):
        migrate(source, (OLD, NEW), tmp_path / "new.jsonl")


def _signature(made: SignatureRecord) -> Any:
    fields = {
        each.name: (python_type(each, made), kind(desc=each.description or f"${{{each.name}}}"))
        for side, kind in ((made.inputs, dspy.InputField), (made.outputs, dspy.OutputField))
        for each in side
    }
    return dspy.Signature(fields, made.instructions)


def _saved(module: dspy.Module, path: Path) -> Path:
    module.save(path)
    return path


DEMO = dspy.Example(body="Help", team="red", urgency=2, reasoning="because", augmented=True)


def test_a_compiled_program_loads_into_the_new_version(tmp_path: Path) -> None:
    old = dspy.ChainOfThought(_signature(OLD))
    old.predict.demos = [DEMO, dspy.Example(body="x", team="green", urgency=1)]
    saved = _saved(old, tmp_path / "program.json")
    before = saved.read_bytes()

    report = migrate(saved, (OLD, NEW), tmp_path / "migrated.json")

    new = dspy.ChainOfThought(_signature(NEW))
    new.load(tmp_path / "migrated.json")
    fresh = dspy.ChainOfThought(_signature(NEW))
    demo = new.predict.demos[0]
    assert new.predict.signature.equals(fresh.predict.signature)
    assert len(new.predict.demos) == 1
    assert (demo["ticket"], demo["team"], demo["channel"]) == ("Help", "north", "mail")
    assert demo["reasoning"] == "because"
    assert report.carried == 1
    assert [each.where for each in report.refused] == ["predict, demonstration 2"]
    assert saved.read_bytes() == before


def test_what_an_optimizer_wrote_is_kept(tmp_path: Path) -> None:
    old = dspy.Predict(_signature(OLD))
    old.signature = old.signature.with_instructions("Think hard.").with_updated_fields(
        "urgency", desc="From 0 on."
    )

    report = migrate(_saved(old, tmp_path / "p.json"), (OLD, NEW), tmp_path / "q.json")

    new = dspy.Predict(_signature(NEW))
    new.load(tmp_path / "q.json")
    assert new.signature.instructions == "Think hard."
    assert new.signature.fields["urgency"].json_schema_extra["desc"] == "From 0 on."
    assert new.signature.fields["ticket"].json_schema_extra["desc"] == "The whole message."
    assert report.notes == ("the predictor: optimized instructions were kept; read them once",)


class _Two(dspy.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        self.route = dspy.Predict(_signature(OLD))
        self.polish = dspy.Predict("draft -> final")


def test_predictors_of_other_signatures_stay_as_they_are(tmp_path: Path) -> None:
    saved = _saved(_Two(), tmp_path / "p.json")

    migrate(saved, (OLD, NEW), tmp_path / "q.json")

    before, after = (json.loads((tmp_path / name).read_text()) for name in ("p.json", "q.json"))
    assert after["polish"] == before["polish"]
    assert after["metadata"] == before["metadata"]
    assert after["route"] != before["route"]


def test_a_program_that_uses_the_fields_its_own_way_must_be_compiled_again(tmp_path: Path) -> None:
    saved = _saved(dspy.ReAct(_signature(OLD), tools=[]), tmp_path / "p.json")

    with pytest.raises(InvalidInput, match="in a way of its own; compile the program again"):
        migrate(saved, (OLD, NEW), tmp_path / "q.json")


def test_a_program_over_another_signature_is_refused(tmp_path: Path) -> None:
    saved = _saved(dspy.Predict("draft -> final"), tmp_path / "p.json")

    with pytest.raises(InvalidInput, match=r"no predictor over triage@1\.0\.0"):
        migrate(saved, (OLD, NEW), tmp_path / "q.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InvalidInput, match="no saved DSPy program"):
        migrate(tmp_path / "list.json", (OLD, NEW), tmp_path / "q.json")
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(IntegrityError, match="damaged"):
        migrate(tmp_path / "torn.json", (OLD, NEW), tmp_path / "q.json")


@many
@given(field_names)
def test_fields_are_titled_as_dspy_titles_them(name: str) -> None:
    assert label(name) == infer_prefix(name)
