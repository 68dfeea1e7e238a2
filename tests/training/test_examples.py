from __future__ import annotations

from pathlib import Path

import pytest

from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.training.examples import (
    Chat,
    Completion,
    InvalidExample,
    Piece,
    Pieces,
    Turn,
    read_examples,
)

GOOD = '{"prompt": "2 + 2 =", "completion": " 4"}'


def test_all_kinds_are_read_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    chat = (
        '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}'
    )
    pieces = '{"pieces": [{"text": "a"}, {"text": "b", "weight": 0.5}]}'
    file.write_text(f"{GOOD}\n\n{chat}\n{pieces}\n")

    read = read_examples([file])

    assert read == [
        Completion("2 + 2 =", " 4", f"{file}:1"),
        Chat((Turn("user", "hi"), Turn("assistant", "yo")), f"{file}:3"),
        Pieces((Piece("a", 0.0), Piece("b", 0.5)), f"{file}:4"),
    ]


BAD_LINES = [
    ("{", r"is not JSON \(line 1, column 2"),
    ("[" * 100_000, "nested too deeply"),
    ('{"prompt": "x", "completion": "\\ud800"}', "completion holds half a character"),
    ("[1]", r"must be an object, got \[1\]"),
    ("{}", "it has no keys"),
    (
        '{"text": "x"}',
        'must have "messages", "prompt" and "completion", or "pieces"; it has \'text\'',
    ),
    ('{"prompt": "x"}', "completion must be a text, got None"),
    ('{"prompt": "x", "completion": " "}', "completion is empty"),
    ('{"prompt": 1, "completion": "y"}', "prompt must be a text, got 1"),
    ('{"prompt": "x", "completon": "y"}', "did you mean 'completion'"),
    ('{"pieces": []}', "pieces must be a list"),
    ('{"pieces": [1]}', "piece 1: must be an object"),
    ('{"pieces": [{"text": "x", "weight": 1}]}', "no piece after the first has a weight"),
    ('{"pieces": [{"text": "x", "weight": -1}]}', "weight must be a number of at least 0"),
    ('{"pieces": [{"text": "x", "wait": 1}]}', "did you mean 'weight'"),
    ('{"messages": []}', "must be a list of turns"),
    ('{"messages": ["x"]}', "message 1: must be an object"),
    ('{"messages": [{"role": "bot", "content": "x"}]}', "role must be one of"),
    ('{"messages": [{"role": "user"}]}', "message 1: content must be a text"),
    ('{"messages": [{"role": "user", "content": "x"}]}', "must be the assistant's answer"),
    ('{"messages": [{"role": "assistant", "content": ""}]}', "must be the assistant's answer"),
]


@pytest.mark.parametrize(("line", "says"), BAD_LINES)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(f"{GOOD}\n{line}\n")

    with pytest.raises(InvalidInput, match=says) as caught:
        read_examples([file])

    assert str(caught.value).startswith(f"{file}:2")


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")

    with pytest.raises(InvalidExample, match="is empty"):
        read_examples([empty])
    with pytest.raises(NotFound, match="does not exist"):
        read_examples([tmp_path / "none.jsonl"])
