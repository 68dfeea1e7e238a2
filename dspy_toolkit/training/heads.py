"""Heads over a backbone: typed outputs from one forward pass, each with its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from dspy_toolkit.training import losses
from dspy_toolkit.training.backbone import hidden_states
from dspy_toolkit.training.head_options import HeadLoss
from dspy_toolkit.training.head_specs import LABEL, LABELS, NUMBER, SPAN, HeadSpec

Arrays = Mapping[str, mx.array]
_NOWHERE = -1e9


class Pooled(nn.Module):  # type: ignore[misc]
    """A projection of the states, averaged with learnt attention over the valid ones."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.attend = nn.Linear(width, 1, bias=False)
        self.out = nn.Linear(width, outputs)
        # Every state counts the same at first.
        self.attend.weight = mx.zeros_like(self.attend.weight)

    def __call__(self, states: mx.array, valid: mx.array) -> mx.array:
        """(rows, length, width) to (rows, outputs)."""
        scores = mx.where(valid, self.attend(states).squeeze(-1), _NOWHERE)
        shares = mx.softmax(scores, axis=-1)
        result: mx.array = self.out((shares[:, None] @ states).squeeze(1))
        return result


class Pointer(nn.Module):  # type: ignore[misc]
    """Scores of each word being the first and the last of a span; place 0 is no span at all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, 2)
        self.none = Pooled(width, 2)

    def __call__(self, words: mx.array, word_valid: mx.array, *pooled: mx.array) -> mx.array:
        """(rows, words, width) to (rows, words + 1, 2)."""
        scores = mx.where(word_valid[..., None], self.out(words), _NOWHERE)
        return mx.concatenate([self.none(*pooled)[:, None], scores], axis=1)


class Tagger(nn.Module):  # type: ignore[misc]
    """Scores of each word being outside, and for each label at the beginning of, or further
    inside a span."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, 1 + 2 * labels)

    def __call__(self, words: mx.array) -> mx.array:
        """(rows, words, width) to (rows, words, 1 + 2 labels)."""
        result: mx.array = self.out(words)
        return result


class MultiHead(nn.Module):  # type: ignore[misc]
    """A backbone with one head for each output.

    Args:
        backbone: mlx-lm's module.
        width: of its hidden states.
        specs: the heads.
        causal: whether a token sees only what is before it.
    """

    def __init__(self, backbone: Any, width: int, specs: Sequence[HeadSpec], causal: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = {spec.field: _head(spec, width) for spec in specs}
        self._specs = tuple(specs)
        self._causal = causal

    def __call__(self, batch: Arrays) -> dict[str, mx.array]:
        """Raw outputs by field, from arrays of `head_inputs.stacked`."""
        documents = None if self._causal else batch["valid"].astype(mx.int32)
        states = hidden_states(self.backbone, batch["tokens"], documents, self._causal)
        states = states.astype(mx.float32)
        words = mx.take_along_axis(states, batch["words"][..., None], axis=1)
        found: dict[str, mx.array] = {}
        for spec in self._specs:
            head = self.heads[spec.field]
            if isinstance(head, Pooled):
                found[spec.field] = head(states, batch["valid"])
            elif isinstance(head, Pointer):
                found[spec.field] = head(words, batch["word_valid"], states, batch["valid"])
            else:
                found[spec.field] = head(words)
        return found


def head_loss(specs: Sequence[HeadSpec], options: HeadLoss) -> Any:
    """The weighted loss of all heads, for batches of `head_data.HeadSource`.

    An example that says nothing about a field adds nothing for it.
    """

    def loss(model: MultiHead, batch: Arrays) -> tuple[mx.array, mx.array]:
        raw = model(batch)
        each = {
            spec.field: _loss_of(spec, raw[spec.field], batch, options)
            * batch[f"{spec.field}.known"]
            for spec in specs
        }
        total = losses.weighted_sum(each, options.weights or {})
        return total.sum(), mx.array(float(total.shape[0]))

    return loss


def _loss_of(spec: HeadSpec, raw: mx.array, batch: Arrays, options: HeadLoss) -> mx.array:
    target = batch[f"{spec.field}.goal"]
    if spec.kind == LABEL:
        plain = _label_loss(raw, target, options)
        beliefs = batch.get(f"{spec.field}.beliefs")
        if beliefs is None:
            return plain
        followed = losses.kl_to_teacher(raw, mx.log(mx.maximum(beliefs, 1e-9)))
        share = options.teacher * batch[f"{spec.field}.believed"]
        return share * followed + (1 - share) * plain
    if spec.kind == LABELS:
        return losses.binary(raw, target).mean(axis=-1)
    if spec.kind == NUMBER:
        value, present = target[:, 0], target[:, 1]
        missed = losses.huber(raw[:, 0], value) * present
        return missed + (losses.binary(raw[:, 1], present) if spec.optional else 0.0)
    if spec.kind == SPAN:
        ends = [_label_loss(raw[..., i], target[:, i], options) for i in (0, 1)]
        return 0.5 * (ends[0] + ends[1])
    valid = batch["word_valid"]
    tags = losses.cross_entropy(raw, target) * valid
    return tags.sum(axis=-1) / mx.maximum(valid.sum(axis=-1), 1)


def _head(spec: HeadSpec, width: int) -> nn.Module:
    if spec.kind in (LABEL, LABELS):
        return Pooled(width, len(spec.options))
    if spec.kind == NUMBER:
        return Pooled(width, 2)
    return Pointer(width) if spec.kind == SPAN else Tagger(width, len(spec.options) or 1)


def _label_loss(logits: mx.array, targets: mx.array, options: HeadLoss) -> mx.array:
    if options.name == "label_smoothing":
        return losses.label_smoothing(logits, targets, options.smoothing)
    if options.name == "focal":
        return losses.focal(logits, targets, options.gamma)
    return losses.cross_entropy(logits, targets)
