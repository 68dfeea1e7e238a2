from __future__ import annotations

from pathlib import Path

import dspy
import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.signature import dspy_signature, load_signature, record_of, typed_values
from dspy_toolkit.registry import FieldRecord, ObjectRecord, SignatureRecord, find, list_records

ORDER = SignatureRecord(
    name="order",
    version="1.2.0",
    instructions="Read the order.",
    inputs=(FieldRecord("email", "str", "the email"),),
    outputs=(
        FieldRecord("lines", "list[Line]", min_length=1),
        FieldRecord("score", "int", "how sure", minimum=1, maximum=5),
        FieldRecord("note", "str | None", pattern="^[a-z ]+$"),
        FieldRecord("speed", "Literal['slow', 'fast']"),
    ),
    objects=(
        ObjectRecord("Line", (FieldRecord("name", "str"), FieldRecord("count", "int", minimum=1))),
    ),
)


def system_message(signature: type[dspy.Signature]) -> str:
    return str(dspy.ChatAdapter().format_system_message(signature))


def test_fields_keep_their_order_side_and_description() -> None:
    signature = dspy_signature(ORDER)

    assert list(signature.input_fields) == ["email"]
    assert list(signature.output_fields) == ["lines", "score", "note", "speed"]
    assert signature.instructions == "Read the order."
    assert "1. `email` (str): the email" in system_message(signature)


def test_constraints_options_and_nested_objects_show_in_the_prompt() -> None:
    shown = system_message(dspy_signature(ORDER))

    assert "greater than or equal to: 1, less than or equal to: 5" in shown
    assert "matches the pattern: ^[a-z ]+$" in shown
    assert "one of: slow; fast" in shown
    assert '"minimum": 1' in shown


def test_no_python_internals_show_in_the_prompt() -> None:
    shown = system_message(dspy_signature(ORDER))

    assert "FieldInfo" not in shown
    assert "Annotated" not in shown


def test_the_record_is_recovered_from_the_signature() -> None:
    record = record_of(dspy_signature(ORDER))

    assert record == ORDER
    assert record.digest == ORDER.digest
    assert record.reference == "order@1.2.0"
    assert record_of(dspy.Signature("question -> answer")) is None


def test_nested_values_become_models_with_their_defaults() -> None:
    values = typed_values(ORDER, {"lines": [{"name": "cup", "count": 2}], "email": "hi"})

    assert values["lines"][0].name == "cup"
    assert values["email"] == "hi"


def test_an_answer_is_parsed_into_typed_values() -> None:
    said = (
        '[[ ## lines ## ]]\n[{"name": "cup", "count": 2}]\n\n[[ ## score ## ]]\n4\n\n'
        "[[ ## note ## ]]\nNone\n\n[[ ## speed ## ]]\nfast\n\n[[ ## completed ## ]]"
    )

    parsed = prompt_format("chat").parse(dspy_signature(ORDER), said)

    assert parsed["lines"][0].count == 2
    assert parsed["score"] == 4
    assert parsed["note"] is None
    assert parsed["speed"] == "fast"


@pytest.mark.parametrize("record", list_records(), ids=lambda record: record.reference)
def test_every_shipped_signature_becomes_a_dspy_signature(record: SignatureRecord) -> None:
    signature = dspy_signature(record)

    assert list(signature.fields) == [each.name for each in record.inputs + record.outputs]
    assert record.instructions.splitlines()[0] in system_message(signature)


@pytest.mark.parametrize("record", list_records(), ids=lambda record: record.reference)
def test_the_examples_of_every_shipped_signature_can_stand_in_a_prompt(
    record: SignatureRecord,
) -> None:
    signature = dspy_signature(record)

    for example in record.examples:
        values = typed_values(record, {**example["inputs"], **example["outputs"]})
        messages = prompt_format("chat").format(signature, [values], example["inputs"])

        assert len(messages) == 4


def test_a_signature_is_loaded_by_its_reference() -> None:
    signature = load_signature("classify@1.0.0")

    assert record_of(signature) == find("classify@1.0.0")


def test_a_callers_settings_say_where_a_signature_is_loaded_from(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    place = settings.signatures / "quick_route" / "1.0.0.toml"
    place.parent.mkdir(parents=True)
    place.write_text(
        'name = "quick_route"\nversion = "1.0.0"\ninstructions = "Route it at once."\n'
        '[inputs.text]\ntype = "str"\n[outputs.team]\ntype = "str"\n'
    )

    assert load_signature("quick_route", settings=settings).instructions == "Route it at once."
