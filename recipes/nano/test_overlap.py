"""What the model was trained on is not what the example scores it on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import lexicon
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "ticket_triage" / "data"
LONGEST_SHARED = 5
"""Words in a row that a ticket may share with the lists: "as soon as possible", "a receipt for"."""


def tickets_of(split: str) -> list[str]:
    lines = (EXAMPLE / f"{split}.jsonl").read_text().splitlines()
    return [json.loads(line)["ticket"] for line in lines]


def words_of(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z']+", text.lower()))


def runs(words: tuple[str, ...], length: int) -> Iterator[tuple[str, ...]]:
    return (words[start : start + length] for start in range(len(words) - length + 1))


def phrases() -> Iterator[str]:
    for file in lexicon.DATA.glob("*.toml"):
        yield from re.split(r'["\n,|]', file.read_text())


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_no_sentence_of_a_ticket_stands_in_the_word_lists(split: str) -> None:
    known = {words_of(phrase) for phrase in phrases()}
    tickets = tickets_of(split)
    sentences = {words_of(part) for ticket in tickets for part in re.split(r"[.!?]", ticket)}

    shared = {words for words in sentences & known if len(words) > LONGEST_SHARED}

    assert tickets
    assert not shared


def test_no_test_ticket_shares_more_than_a_common_phrase_with_the_word_lists() -> None:
    length = LONGEST_SHARED + 1
    known = {run for phrase in phrases() for run in runs(words_of(phrase), length)}
    tickets = tickets_of("test")

    shared = [ticket for ticket in tickets if known & set(runs(words_of(ticket), length))]

    assert len(known) > 100
    assert not shared
