"""From raw outputs of heads to typed values with probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dspy_toolkit.training.head_inputs import BEGINS, OUTSIDE, ReadInput
from dspy_toolkit.training.head_specs import LABEL, LABELS, NUMBER, SPAN, TAGS, HeadSpec

_LONGEST_SPAN = 40


@dataclass(frozen=True)
class HeadPrediction:
    """Typed outputs of one example.

    Attributes:
        outputs: value by field, of the signature's types.
        probabilities: how likely the value is right as a whole, by the model's own lights. A
            number has none unless it is optional; then it is that of being there or not.
        distributions: by label field, probability by option; by field of several labels, of each.
        evidence: by text field, (start, end) of each span in the input as the heads read it.
    """

    outputs: dict[str, Any]
    probabilities: dict[str, float]
    distributions: dict[str, dict[Any, float]]
    evidence: dict[str, list[tuple[int, int]]]


def decode(
    specs: Sequence[HeadSpec], raw: Mapping[str, np.ndarray], read: ReadInput
) -> HeadPrediction:
    """Read one example's raw outputs.

    Args:
        specs: the heads.
        raw: by field, without the batch axis: (options,), (2,), (words + 1, 2) or
            (words, 1 + 2 labels).
        read: the input it was.
    """
    found = HeadPrediction({}, {}, {}, {})
    for spec in specs:
        scores = np.asarray(raw[spec.field], np.float64)
        if spec.kind == LABEL:
            _label(spec, scores, found)
        elif spec.kind == LABELS:
            _labels(spec, scores, found)
        elif spec.kind == NUMBER:
            _number(spec, scores, found)
        elif spec.kind == SPAN:
            _span(spec, scores[: len(read.words) + 1], read, found)
        else:
            _spans(spec, scores[: len(read.words)], read, found)
    return found


def _label(spec: HeadSpec, scores: np.ndarray, found: HeadPrediction) -> None:
    shares = softmax(scores)
    best = int(shares.argmax())
    found.outputs[spec.field] = spec.options[best]
    found.probabilities[spec.field] = float(shares[best])
    found.distributions[spec.field] = dict(zip(spec.options, shares.tolist(), strict=True))


def _labels(spec: HeadSpec, scores: np.ndarray, found: HeadPrediction) -> None:
    shares = 1 / (1 + np.exp(-scores))
    chosen = [option for option, share in zip(spec.options, shares, strict=True) if share > 0.5]
    found.outputs[spec.field] = None if spec.optional and not chosen else chosen
    found.probabilities[spec.field] = float(np.prod(np.maximum(shares, 1 - shares)))
    found.distributions[spec.field] = dict(zip(spec.options, shares.tolist(), strict=True))


def _number(spec: HeadSpec, scores: np.ndarray, found: HeadPrediction) -> None:
    value = float(scores[0]) * spec.spread + spec.mean
    present = 1 / (1 + np.exp(-scores[1])) if spec.optional else 1.0
    if spec.optional:
        found.probabilities[spec.field] = float(max(present, 1 - present))
    shown = round(value) if spec.whole else value
    found.outputs[spec.field] = shown if present > 0.5 else None


def _span(spec: HeadSpec, scores: np.ndarray, read: ReadInput, found: HeadPrediction) -> None:
    first, last = softmax(scores[:, 0]), softmax(scores[:, 1])
    # Words by words, those pairs that are a span; then no span at all beside them.
    pairs = np.triu(np.outer(first[1:], last[1:]))
    pairs = np.tril(pairs, _LONGEST_SPAN - 1)
    none = first[0] * last[0] if spec.optional or not pairs.size else 0.0
    total = float(pairs.sum() + none) or 1.0
    best = np.unravel_index(int(pairs.argmax()), pairs.shape) if pairs.size else (0, 0)
    if not pairs.size or pairs[best] < none:
        found.outputs[spec.field] = None if spec.optional else ""
        found.probabilities[spec.field] = float(none / total)
        found.evidence[spec.field] = []
        return
    span = (read.words[int(best[0])][0], read.words[int(best[1])][1])
    found.outputs[spec.field] = read.text[slice(*span)]
    found.probabilities[spec.field] = float(pairs[best] / total)
    found.evidence[spec.field] = [span]


def _spans(spec: HeadSpec, scores: np.ndarray, read: ReadInput, found: HeadPrediction) -> None:
    shares = softmax(scores) if len(scores) else scores
    tags = shares.argmax(axis=-1) if len(scores) else np.zeros(0, int)
    spans: list[tuple[int, int]] = []
    labels: list[int] = []
    before = OUTSIDE
    for word, tag in zip(read.words, tags.tolist(), strict=True):
        begins, label = (tag - BEGINS) % 2 == 0, (tag - BEGINS) // 2
        if tag != OUTSIDE and not begins and before != OUTSIDE and labels[-1] == label:
            spans[-1] = (spans[-1][0], word[1])
        elif tag != OUTSIDE:
            spans.append(word)
            labels.append(label)
        before = tag
    texts = [read.text[start:end] for start, end in spans]
    values: Any = texts
    if spec.kind == TAGS:
        values = {
            option: [text for text, label in zip(texts, labels, strict=True) if label == i]
            for i, option in enumerate(spec.options)
            if i in labels
        }
    found.outputs[spec.field] = None if spec.optional and not texts else values
    found.probabilities[spec.field] = float(np.prod(shares.max(axis=-1))) if len(scores) else 1.0
    found.evidence[spec.field] = spans


def softmax(scores: np.ndarray) -> np.ndarray:
    """Shares along the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return shares
