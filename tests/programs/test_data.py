from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.programs.data import (
    SPLITS,
    Row,
    data_of_examples,
    make_data,
    make_splits,
    read_rows,
)
from tests.programs.tasks import write_lines

SHARES = {"train": 0.25, "validation": 0.25, "test": 0.5}
inputs = st.lists(st.integers(0, 40), min_size=12, max_size=120)
seeds = st.integers(0, 2**32)


def rows_of(numbers: list[int]) -> list[Row]:
    return [Row({"text": n, "team": i}, f"all.jsonl:{i}") for i, n in enumerate(numbers)]


def fits(values: dict[str, Any]) -> str | None:
    return None


@given(inputs, seeds)
def test_made_splits_are_disjoint_and_complete(numbers: list[int], seed: int) -> None:
    rows = rows_of(numbers)
    assume(len(set(numbers)) > 8)
    splits = make_splits(rows, ["text"], SHARES, seed)
    placed = [row.place for taken in splits.values() for row in taken]

    assert sorted(placed) == sorted(row.place for row in rows)
    assert len(set(placed)) == len(rows)


@given(inputs, seeds)
def test_rows_with_the_same_inputs_share_a_split(numbers: list[int], seed: int) -> None:
    assume(len(set(numbers)) > 8)
    splits = make_splits(rows_of(numbers), ["text"], SHARES, seed)
    seen = [{row.values["text"] for row in splits[name]} for name in SPLITS]

    assert sum(map(len, seen)) == len(set(numbers))


@given(st.integers(20, 200), seeds)
@settings(max_examples=50)
def test_made_splits_have_the_size_asked_for(count: int, seed: int) -> None:
    splits = make_splits(rows_of(list(range(count))), ["text"], SHARES, seed)

    assert all(abs(len(splits[name]) - SHARES[name] * count) <= 1 for name in SPLITS)


@given(st.integers(20, 80), seeds)
@settings(max_examples=50)
def test_the_seed_alone_decides_how_rows_are_divided(count: int, seed: int) -> None:
    rows = rows_of(list(range(count)))
    once, again, other = (make_splits(rows, ["text"], SHARES, s) for s in (seed, seed, seed + 1))

    assert once == again
    assert once != other


def test_too_few_examples_for_three_splits_are_refused() -> None:
    with pytest.raises(
        InvalidInput, match="split would be empty: 2 different examples are too few"
    ):
        make_splits(rows_of([1, 2]), ["text"], SHARES, 0)


def test_lines_keep_their_number_over_blank_ones_and_unicode_separators(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one\u2028still one"}\n\n{"text": "two"}\n', encoding="utf-8")

    rows = read_rows(file, "data/a.jsonl", fits)

    assert [row.place for row in rows] == ["data/a.jsonl:1", "data/a.jsonl:3"]
    assert rows[0].values["text"] == "one\u2028still one"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": \n', r"a\.jsonl:2: not JSON \(.*\); write one object a line"),
        ("[1]\n", r"a\.jsonl:1: a list, not a JSON object"),
        ('"text"\n', r"a\.jsonl:1: a str, not a JSON object"),
        ("[" * 100_000, r"a\.jsonl:1: nested too deeply"),
        ("\n\n", r"a\.jsonl has no examples"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)

    with pytest.raises(InvalidInput, match=message):
        read_rows(tmp_path / "a.jsonl", "a.jsonl", fits)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(NotFound, match=r"a\.jsonl does not exist"):
        read_rows(tmp_path / "a.jsonl", "a.jsonl", fits)
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read_rows(tmp_path / "b.jsonl", "b.jsonl", fits)


def test_inputs_in_two_splits_are_refused_with_both_places() -> None:
    splits = {
        "train": [Row({"text": "a", "team": 1}, "train.jsonl:1")],
        "validation": [Row({"text": "b", "team": 1}, "validation.jsonl:1")],
        "test": [Row({"text": "a", "team": 2}, "test.jsonl:7")],
    }

    with pytest.raises(InvalidInput, match=r"test\.jsonl:7 has the same inputs as train\.jsonl:1"):
        make_data(splits, ["text"])


def test_digests_follow_the_values_and_nothing_else(tmp_path: Path) -> None:
    def digest(team: str, spaces: str) -> str:
        file = tmp_path / "a.jsonl"
        file.write_text(f'{{"team":{spaces}"{team}", "text": "x"}}\n')
        rows = read_rows(file, "a.jsonl", fits)
        other = [Row({"text": n, "team": "x"}, str(n)) for n in "12"]
        return make_data(
            {"train": rows, "validation": other[:1], "test": other[1:]}, ["text"]
        ).train.digest

    assert digest("atlas", "") == digest("atlas", "   ")
    assert digest("atlas", "") != digest("comet", "")


def made(**values: Any) -> dspy.Example:
    return dspy.Example(**values).with_inputs("text", "note")


def test_examples_made_in_python_are_taken_as_they_are() -> None:
    one, two, three = made(text="a", team="x"), made(text="b", note="n", team="x"), made(text="c")

    data = data_of_examples({"train": [one], "validation": [two], "test": [three]})

    assert data.train.examples[0] is one
    assert data.inputs == ("text", "note")
    assert data.validation.rows[0].values == {"text": "b", "note": "n", "team": "x"}
    assert data.locate(three) == "test example 0"


@pytest.mark.parametrize("value", [date(2026, 1, 2), {"at": date(2026, 1, 2)}, {1, 2}, "\ud800"])
def test_a_value_that_json_lacks_is_named_with_example_and_field(value: Any) -> None:
    splits = {"train": [made(text="a", team="x"), made(text="b", team=value)]}

    with pytest.raises(InvalidInput, match="train example 1: field 'team' holds a"):
        data_of_examples(splits)


def test_an_example_is_found_by_its_place(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": str(n), "team": "x"} for n in range(3)])
    rows = read_rows(tmp_path / "a.jsonl", "a.jsonl", fits)
    data = make_data({"train": rows[:1], "validation": rows[1:2], "test": rows[2:]}, ["text"])

    assert data.locate(data.test.examples[0]) == "a.jsonl:3"
    assert data.locate(data.train.examples[0].copy()) == "a.jsonl:1"
    assert data.split("test").examples[0].inputs().toDict() == {"text": "2"}
    with pytest.raises(InvalidInput, match="did you mean 'test'"):
        data.split("tets")
