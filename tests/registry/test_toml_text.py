from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.registry import SignatureRecord, to_toml
from dspy_toolkit.registry.reading import read_record
from tests.registry.strategies import built, few, many, records, tables


@few
@given(records)
def test_a_written_record_is_read_back_equal_with_the_same_digest(record: SignatureRecord) -> None:
    again = read_record(to_toml(record), Path("signature.toml"))

    assert again == record
    assert again.digest == record.digest
    assert to_toml(again) == to_toml(record)


@few
@given(tables(), st.randoms())
def test_the_digest_does_not_depend_on_the_order_of_tables(
    content: dict[str, Any], chance: Any
) -> None:
    keys = list(content)
    chance.shuffle(keys)

    assert built({key: content[key] for key in keys}).digest == built(content).digest


def test_the_digest_depends_on_the_order_of_fields() -> None:
    text = {"type": "str"}
    one = {"name": "a", "version": "1.0.0", "instructions": "x", "outputs": {"c": text}}

    first = built({**one, "inputs": {"a": text, "b": text}})
    second = built({**one, "inputs": {"b": text, "a": text}})

    assert first.digest != second.digest


def test_a_migration_is_written_and_read_back() -> None:
    content = {
        "name": "triage",
        "version": "2.0.0",
        "instructions": "x",
        "inputs": {"text": {"type": "str"}},
        "outputs": {"team": {"type": "Literal['a', 'b']"}, "sure": {"type": "bool"}},
        "migration": {
            "from": "1.0.0",
            "renames": {"body": "text"},
            "defaults": {"sure": False},
            "values": {"team": {'Old "A"': "a"}},
        },
    }
    record = built(content)

    again = read_record(to_toml(record), Path("signature.toml"))

    assert again == record
    assert again.to_dict()["migration"] == content["migration"]


@many
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_survives_as_instructions_or_value(text: str) -> None:
    content = {
        "name": "a",
        "version": "1.0.0",
        "instructions": f"x{text}",
        "inputs": {"given": {"type": "str"}},
        "outputs": {"made": {"type": "dict[str, str]"}},
        "examples": [{"inputs": {"given": text}, "outputs": {"made": {text: text}}}],
    }
    record = built(content)

    written = tomllib.loads(to_toml(record))

    assert written["examples"] == content["examples"]
    assert written["instructions"].strip() == record.instructions


def test_what_toml_cannot_hold_is_refused() -> None:
    record = built(
        {
            "name": "a",
            "version": "1.0.0",
            "instructions": "x",
            "inputs": {"talk": {"type": "History"}},
            "outputs": {"made": {"type": "str"}},
            "examples": [
                {"inputs": {"talk": {"messages": [{"a": [None]}]}}, "outputs": {"made": "x"}}
            ],
        }
    )

    with pytest.raises(InvalidInput, match="cannot be written in a signature file"):
        to_toml(record)
