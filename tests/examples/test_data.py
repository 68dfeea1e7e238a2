"""What holds for the data of every example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dspy_toolkit.registry import load_file, validate_values
from tests.examples.reading import COUNTS, EXAMPLES, TASKS, five_grams, rows_of, sentences

INPUTS = {
    "ticket_triage": ("ticket",),
    "order_extraction": ("email",),
    "policy_answers": ("context", "question"),
}


def texts(task: str, split: str) -> list[str]:
    return [row[name] for row in rows_of(task, split) for name in INPUTS[task]]


@pytest.mark.parametrize("task", TASKS)
def test_the_script_writes_the_same_bytes_again(task: str, tmp_path: Path) -> None:
    script = EXAMPLES / task / "make_data.py"

    subprocess.run([sys.executable, script, "--out", tmp_path], check=True, capture_output=True)

    for split in COUNTS:
        kept = EXAMPLES / task / "data" / f"{split}.jsonl"
        assert (tmp_path / kept.name).read_bytes() == kept.read_bytes()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", COUNTS)
def test_every_line_fits_its_signature(task: str, split: str) -> None:
    record = load_file(EXAMPLES / task / "signature.toml")

    for row in rows_of(task, split):
        validate_values(record, "all", row)

    assert len(rows_of(task, split)) == COUNTS[split]


@pytest.mark.parametrize("task", TASKS)
def test_no_inputs_occur_twice(task: str) -> None:
    inputs = [
        tuple(row[name] for name in INPUTS[task])
        for split in COUNTS
        for row in rows_of(task, split)
    ]

    assert len(set(inputs)) == len(inputs)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("split", "earlier"),
    [("test", ("train", "validation")), ("validation", ("train",))],
)
def test_no_wording_of_an_earlier_split_comes_back(
    task: str, split: str, earlier: tuple[str, ...]
) -> None:
    known = [text for name in earlier for text in texts(task, name)]
    known_sentences = set().union(*map(sentences, known))
    known_five_grams = set().union(*map(five_grams, known))

    for text in texts(task, split):
        assert not sentences(text) & known_sentences
        assert not five_grams(text) & known_five_grams
