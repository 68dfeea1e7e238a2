from __future__ import annotations

import re
from pathlib import Path

import pytest

from dspy_toolkit.registry.reading import read_record
from dspy_toolkit.registry.type_text import parse_type

PAGE = (Path(__file__).parents[2] / "docs" / "signatures.md").read_text(encoding="utf-8")


def test_the_example_of_the_guide_is_a_sound_file() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)

    record = read_record(text, Path("signature.toml"))

    assert record.reference == "order_mail@2.0.0"
    assert len(record.examples) == 1
    assert record.migration is not None


@pytest.mark.parametrize(
    "text", re.findall(r"`((?:Literal|Choice|Noul|Score|Code)\[[^`]*\])`", PAGE)
)
def test_the_types_of_the_guide_are_types(text: str) -> None:
    assert parse_type(text)
