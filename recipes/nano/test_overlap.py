"""What the model was trained on is not what the example scores it on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import lexicon
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = {"ticket_triage": "ticket", "policy_answers": "context", "order_extraction": "email"}
LONGEST_SHARED = 5
"""Words in a row that a text may share with the lists: "as soon as possible", "a receipt for"."""


def texts_of(task: str, split: str) -> list[str]:
    lines = (EXAMPLES / task / "data" / f"{split}.jsonl").read_text().splitlines()
    return [json.loads(line)[TEXTS[task]] for line in lines]


def words_of(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z']+", text.lower()))


def runs(words: tuple[str, ...], length: int) -> Iterator[tuple[str, ...]]:
    return (words[start : start + length] for start in range(len(words) - length + 1))


def phrases() -> Iterator[str]:
    for file in lexicon.DATA.glob("*.toml"):
        yield from re.split(r'["\n,|]', file.read_text())


@pytest.mark.parametrize("task", TEXTS)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_no_sentence_of_an_example_stands_in_the_word_lists(split: str, task: str) -> None:
    known = {words_of(phrase) for phrase in phrases()}
    texts = texts_of(task, split)
    sentences = {words_of(part) for text in texts for part in re.split(r"[.!?]", text)}

    shared = {words for words in sentences & known if len(words) > LONGEST_SHARED}

    assert texts
    assert not shared


@pytest.mark.parametrize("task", TEXTS)
def test_no_test_text_shares_more_than_a_common_phrase_with_the_word_lists(task: str) -> None:
    length = LONGEST_SHARED + 1
    known = {run for phrase in phrases() for run in runs(words_of(phrase), length)}
    texts = texts_of(task, "test")

    shared = [text for text in texts if known & set(runs(words_of(text), length))]

    assert len(known) > 100
    assert not shared
