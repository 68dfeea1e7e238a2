"""Inputs of a signature as tokens and words, and outputs as goals of heads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.training.head_specs import LABEL, LABELS, NUMBER, SPAN, HeadSpec

_WORD = re.compile(r"\d+(?:[.,:/-]\d+)*|\w+|[^\w\s]")
_UNIT = 16
OUTSIDE, BEGINS, GOES_ON = 0, 1, 2


class AnswerNotFound(InvalidInput):
    """An answer cannot be what its head gives."""


@dataclass(frozen=True, slots=True)
class ReadInput:
    """Inputs as a backbone reads them.

    Attributes:
        text: the fields, one after the other, each `name: value` on lines of its own.
        tokens: ids.
        words: (start, end) of each word of the values in `text`.
        last_tokens: index of the token that ends each word.
        truncated: whether the end was cut off.
    """

    text: str
    tokens: list[int]
    words: list[tuple[int, int]]
    last_tokens: list[int]
    truncated: bool


class InputReader:
    """Turns inputs into tokens and words.

    Args:
        tokenizer: mlx-lm's wrapper around a fast tokenizer.
        fields: input fields, in the order they are written.
        length: most tokens; what is beyond is cut off.
    """

    def __init__(self, tokenizer: Any, fields: Sequence[str], length: int) -> None:
        self._tokenizer = getattr(tokenizer, "_tokenizer", tokenizer)
        if not self._tokenizer.is_fast:
            raise InvalidInput("heads need a tokenizer.json; this model has only a slow tokenizer")
        self._fields = tuple(fields)
        self._length = length

    def __call__(self, inputs: Mapping[str, Any]) -> ReadInput:
        """Read one example's inputs.

        Raises:
            InvalidInput: a field is missing.
        """
        missing = [name for name in self._fields if name not in inputs]
        if missing:
            raise InvalidInput(f"input {missing[0]} is missing; give {', '.join(self._fields)}")
        text, values = "", []
        for name in self._fields:
            value = inputs[name]
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            start = len(text) + len(name) + 2
            values.append((start, start + len(shown)))
            text += f"{name}: {shown}\n"
        coded = self._tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        ends = [end for _, end in coded["offset_mapping"]][: self._length]
        words = [
            match.span()
            for start, stop in values
            for match in _WORD.finditer(text, start, stop)
            if ends and match.end() <= ends[-1]
        ]
        last = np.searchsorted(ends, [end for _, end in words])
        return ReadInput(
            text=text,
            tokens=list(coded["input_ids"])[: self._length],
            words=words,
            last_tokens=[int(each) for each in last],
            truncated=len(coded["input_ids"]) > self._length,
        )


def stacked(read: Sequence[ReadInput]) -> dict[str, mx.array]:
    """Arrays of several inputs.

    Returns:
        `tokens` (rows, length) and `valid` (rows, length); `words` (rows, words), the index of
        each word's last token, and `word_valid` (rows, words). Rows without words have one that
        is not valid.
    """
    length = _up(max(len(each.tokens) for each in read))
    words = _up(max(len(each.words) for each in read) or 1)
    arrays = {
        "tokens": np.zeros((len(read), length), np.int32),
        "valid": np.zeros((len(read), length), bool),
        "words": np.zeros((len(read), words), np.int32),
        "word_valid": np.zeros((len(read), words), bool),
    }
    for i, each in enumerate(read):
        arrays["tokens"][i, : len(each.tokens)] = each.tokens
        arrays["valid"][i, : len(each.tokens)] = True
        arrays["words"][i, : len(each.words)] = each.last_tokens
        arrays["word_valid"][i, : len(each.words)] = True
    return {name: mx.array(array) for name, array in arrays.items()}


def goal(spec: HeadSpec, read: ReadInput, value: Any) -> np.ndarray:
    """What a head should give.

    Returns:
        By kind: label, an index; labels, (options,) 0 or 1; number, (value standardised, 1 if
        present); span, (first, last) word counted from 1, or (0, 0) for none; spans and tags,
        (words,) of OUTSIDE, BEGINS, GOES_ON, the last two of the second label two higher, and so
        on.

    Raises:
        AnswerNotFound: the value is no option, or stands nowhere in the input.
    """
    if spec.kind == LABEL:
        return np.array(_index(spec, value), np.int32)
    if spec.kind == LABELS:
        chosen = {_index(spec, each) for each in value or ()}
        return np.array([i in chosen for i in range(len(spec.options))], np.float32)
    if spec.kind == NUMBER:
        known = value is not None
        scaled = (float(value) - spec.mean) / spec.spread if known else 0.0
        return np.array([scaled, known], np.float32)
    if spec.kind == SPAN:
        if value is None or value == "":
            return np.array([0, 0], np.int32)
        first, last = _find(spec, read, str(value))
        return np.array([first + 1, last + 1], np.int32)
    tags = np.zeros(len(read.words), np.int32)
    labelled = {(): value or ()} if not spec.options else value or {}
    for label, texts in labelled.items():
        shift = 2 * _index(spec, label) if spec.options else 0
        for each in texts:
            first, last = _find(spec, read, str(each), tags)
            tags[first : last + 1] = GOES_ON + shift
            tags[first] = BEGINS + shift
    return tags


def _index(spec: HeadSpec, value: Any) -> int:
    for i, option in enumerate(spec.options):
        # 1 and True are equal, and are different labels.
        if option == value and type(option) is type(value):
            return i
    raise AnswerNotFound(f"{spec.field}: {value!r} is none of {list(spec.options)}")


def _find(
    spec: HeadSpec, read: ReadInput, answer: str, taken: np.ndarray | None = None
) -> tuple[int, int]:
    """The words of an answer's first occurrence that is not taken."""
    wanted = re.escape(answer.strip()).replace(r"\ ", r"\s+")
    starts = {begin: i for i, (begin, _) in enumerate(read.words)}
    ends = {end: i for i, (_, end) in enumerate(read.words)}
    for match in re.finditer(wanted, read.text, re.IGNORECASE):
        first, last = starts.get(match.start()), ends.get(match.end())
        if first is None or last is None:
            continue
        if taken is None or not taken[first : last + 1].any():
            return first, last
    raise AnswerNotFound(
        f"{spec.field}: {answer!r} is no run of whole words of the input, so a head cannot point "
        "to it; leave such examples out, or let a language model answer this field"
    )


def _up(count: int) -> int:
    return -(-count // _UNIT) * _UNIT
