"""Examples for heads: batches by number, with changed copies of the inputs where asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.training.augment import Augmenter, words_of
from dspy_toolkit.training.batches import Batch, shared_out
from dspy_toolkit.training.head_inputs import AnswerNotFound, InputReader, ReadInput, goal, stacked
from dspy_toolkit.training.head_options import HeadExample
from dspy_toolkit.training.head_specs import LABEL, LABELS, NUMBER, SPAN, SPANS, TAGS, HeadSpec
from dspy_toolkit.training.order import batch_rows, generator

_AUGMENTATION = 5


class HeadSource:
    """Training batches; the same number always gives the same batch.

    Args:
        examples: at least one.
        specs: the heads.
        read: turns inputs into tokens.
        size: examples of a batch.
        seed: of the order and of the changes.
        change: changes texts of inputs anew each time an example comes round; words of its
            outputs stay.
        workers: parts that a batch is cut into.
    """

    def __init__(
        self,
        examples: Sequence[HeadExample],
        specs: Sequence[HeadSpec],
        read: InputReader,
        size: int,
        seed: int,
        change: Augmenter | None,
        workers: int = 1,
    ) -> None:
        self._examples = examples
        self._specs = specs
        self._read = read
        self._size = size
        self._seed = seed
        self._change = change
        self._workers = workers

    def batch(self, index: int) -> Batch:
        rows = batch_rows(self._seed, index, self._size, len(self._examples))
        chosen = [
            self._changed(self._examples[row], generator(self._seed, index, i, _AUGMENTATION))
            for i, row in enumerate(rows)
        ]
        places = tuple(f"example {row + 1}" for row in rows)
        return head_batch(chosen, self._specs, self._read, places, self._workers)

    def _changed(self, example: HeadExample, rng: np.random.Generator) -> HeadExample:
        if self._change is None:
            return example
        keep = words_of(_texts(example.outputs.values()))
        inputs = {
            name: self._change(value, rng, keep) if isinstance(value, str) else value
            for name, value in example.inputs.items()
        }
        return HeadExample(inputs, example.outputs, example.beliefs)


def head_batches(
    examples: Sequence[HeadExample], specs: Sequence[HeadSpec], read: InputReader, size: int
) -> list[Batch]:
    """Batches that show each example once."""
    return [
        head_batch(examples[start : start + size], specs, read, ("validation",))
        for start in range(0, len(examples), size)
    ]


def head_batch(
    examples: Sequence[HeadExample],
    specs: Sequence[HeadSpec],
    read: InputReader,
    places: tuple[str, ...],
    workers: int = 1,
) -> Batch:
    """A batch of some examples, cut into parts of about as many tokens each."""
    pairs = [(example, read(example.inputs)) for example in examples]
    parts = shared_out(pairs, lambda pair: len(pair[1].tokens), workers)
    tokens = sum(len(seen.tokens) for _, seen in pairs)
    return Batch(tuple(head_arrays(part, specs) for part in parts), tokens, places)


def head_arrays(
    pairs: Sequence[tuple[HeadExample, ReadInput]], specs: Sequence[HeadSpec]
) -> dict[str, mx.array]:
    """Arrays of `stacked`, and by field `goal`, `known` and, where a teacher spoke, `beliefs` and
    `believed`."""
    examples, inputs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    arrays = stacked(inputs)
    for spec in specs:
        goals, known = _goals(spec, examples, inputs, arrays["words"].shape[1])
        arrays[f"{spec.field}.goal"] = goals
        arrays[f"{spec.field}.known"] = known
        if spec.kind == LABEL and any(spec.field in each.beliefs for each in examples):
            beliefs = np.stack([_beliefs(spec, each) for each in examples])
            arrays[f"{spec.field}.beliefs"] = mx.array(beliefs)
            arrays[f"{spec.field}.believed"] = mx.array(beliefs.sum(axis=1) > 0).astype(mx.float32)
    return arrays


def usable(
    examples: Sequence[HeadExample], specs: Sequence[HeadSpec], read: InputReader
) -> list[HeadExample]:
    """Examples without the answers that no head can give, such as text that is not in the input.

    Raises:
        InvalidInput: that leaves no answer at all for a field.
    """
    kept, failures = [], dict[str, AnswerNotFound]()
    for example in examples:
        seen = read(example.inputs)
        outputs = dict(example.outputs)
        for spec in specs:
            try:
                if spec.field in outputs:
                    goal(spec, seen, outputs[spec.field])
            except AnswerNotFound as error:
                failures.setdefault(spec.field, error)
                del outputs[spec.field]
        kept.append(HeadExample(example.inputs, outputs, example.beliefs))
    for spec in specs:
        if not any(spec.field in each.outputs for each in kept):
            raise failures.get(spec.field) or InvalidInput(
                f"no example says what {spec.field} is; give examples with that field"
            )
    return kept


def _goals(
    spec: HeadSpec, examples: Sequence[HeadExample], inputs: Sequence[ReadInput], words: int
) -> tuple[mx.array, mx.array]:
    known = [spec.field in example.outputs for example in examples]
    rows = [
        goal(spec, read, example.outputs[spec.field]) if is_known else None
        for example, read, is_known in zip(examples, inputs, known, strict=True)
    ]
    filled = [_empty(spec, words) if row is None else _padded(spec, row, words) for row in rows]
    return mx.array(np.stack(filled)), mx.array(np.array(known, np.float32))


def _empty(spec: HeadSpec, words: int) -> np.ndarray:
    if spec.kind == LABEL:
        return np.array(0, np.int32)
    if spec.kind == LABELS:
        return np.zeros(len(spec.options), np.float32)
    if spec.kind == NUMBER:
        return np.zeros(2, np.float32)
    return np.zeros(2 if spec.kind == SPAN else words, np.int32)


def _padded(spec: HeadSpec, row: np.ndarray, words: int) -> np.ndarray:
    return np.pad(row, (0, words - len(row))) if spec.kind in (SPANS, TAGS) else row


def _beliefs(spec: HeadSpec, example: HeadExample) -> np.ndarray:
    given = example.beliefs.get(spec.field, {})
    return np.array([given.get(option, 0.0) for option in spec.options], np.float32)


def _texts(values: Any) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            yield from _texts(value)
        elif value is not None and not isinstance(value, bool):
            yield str(value)
