from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given

from dspy_toolkit.registry import SignatureRecord, to_toml
from dspy_toolkit.registry.record import KeyPath
from dspy_toolkit.registry.toml_lines import Lines
from tests.registry.strategies import few, records

TEXT = '''\
# name = "not this"
name = "a"
instructions = """
[inputs.fake]
name = 'x' \\"""
"""

[inputs]
"odd.key".type = 'x # no comment'  # comment
[inputs.text]   # comment
type = "Literal['[', ']']"
other = { a = 1, b = [1, { c = """
x""", d = 2 }] }
dotted.inner . key = true
[[examples]]
when = [
  # comment ]
  1,
  2,
]
[examples.inputs]
a = '\'\'first
second''\'\'\'
[[examples]]
inputs.b = "\\"]"
last = 1979-05-27T07:32:00Z
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2),
        (("instructions",), 3),
        (("inputs",), 8),
        (("inputs", "odd.key", "type"), 9),
        (("inputs", "text"), 10),
        (("inputs", "text", "type"), 11),
        (("inputs", "text", "other", "b", 1, "c"), 12),
        (("inputs", "text", "other", "b", 1, "d"), 13),
        (("inputs", "text", "dotted", "inner", "key"), 14),
        (("examples", 0), 15),
        (("examples", 0, "when", 1), 19),
        (("examples", 0, "inputs"), 21),
        (("examples", 0, "inputs", "a"), 22),
        (("examples", 1), 24),
        (("examples", 1, "inputs", "b"), 25),
        (("examples", 1, "last"), 26),
        (("inputs", "text", "absent", "deeper"), 10),
        (("absent",), 1),
    ],
)
def test_each_key_has_the_line_it_stands_on(path: KeyPath, line: int) -> None:
    tomllib.loads(TEXT)

    assert Lines(TEXT).of(path) == line


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_endings_do_not_matter(end: str) -> None:
    text = end.join(["a = 1", 's = """', "x", '"""', "b = 2", ""])

    assert Lines(text).of(("b",)) == 5


def _paths(value: Any, path: KeyPath = ()) -> dict[KeyPath, Any]:
    found: dict[KeyPath, Any] = {}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        found[(*path, key)] = inner
        if isinstance(inner, dict | list):
            found |= _paths(inner, (*path, key))
    return found


@few
@given(records)
def test_a_value_put_on_a_line_of_its_own_is_found_there(record: SignatureRecord) -> None:
    text = to_toml(record)
    rows = text.split("\n")
    lines = Lines(text)

    for path, value in _paths(tomllib.loads(text)).items():
        if isinstance(path[-1], str) and path[-1].isidentifier():
            row = rows[lines.of(path) - 1]
            assert path[-1] in row
            if isinstance(value, bool | int):
                assert str(value).lower() in row
