from __future__ import annotations

import json
from pathlib import Path

import pytest

from dspy_toolkit.errors import IntegrityError
from dspy_toolkit.store.schema import check

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    file = tmp_path / "some.schema.json"
    file.write_text(json.dumps(SCHEMA))
    return file


def test_what_does_not_fit_is_named_with_its_first_place(schema: Path) -> None:
    with pytest.raises(IntegrityError) as raised:
        check({"s": 1, "n": "two"}, schema, "report a.json")

    message = "report a.json does not fit its schema: $.n: 'two' is not of type 'integer'"
    assert str(raised.value) == message


def test_what_fits_passes(schema: Path) -> None:
    check({"s": "", "n": 2}, schema, "the report")
