"""How far a compressed model's answers are from the original's, token by token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from dspy_toolkit.compression.beginning import Beginning, can_begin, split
from dspy_toolkit.training.backbone import Abilities, abilities, project
from dspy_toolkit.training.batches import Batch, in_turn
from dspy_toolkit.training.language_loss import answer_logits
from dspy_toolkit.training.losses import cross_entropy, kl_to_teacher
from dspy_toolkit.training.packing import Row

_ROWS_AT_ONCE = 6
_MOST_TOKENS = 2048


@dataclass(frozen=True)
class Divergence:
    """Distance of a model's predictions from the original's, over the tokens of answers.

    Attributes:
        kl: mean KL(original || model), in nats a token.
        agreement: share of tokens whose likeliest successor is the same.
        loss: mean cross-entropy of the answers, in nats a token.
        tokens: how many were compared.
    """

    kl: float
    agreement: float
    loss: float
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, rounded to what the sample can tell."""
        return {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


class Reference:
    """What the original model predicts on some rows.

    Args:
        model: the original.
        rows: what is read; only tokens of answers are compared.
        vocabulary: rows of its embedding.

    Attributes:
        seconds: spent on reading so far, by the original and by what is compared.
    """

    def __init__(self, model: Any, rows: Sequence[Row], vocabulary: int) -> None:
        began = time.perf_counter()
        self._able: Abilities = abilities(model, vocabulary)
        thin = _thinned(rows)
        shared = self._able.splits and can_begin(model, vocabulary)
        self._beginning, rest = split(thin) if shared else (None, thin)
        self._batches: list[Batch] = list(in_turn(rest, _ROWS_AT_ONCE, document_mask=False))
        self._goals = list(self._logits(model))
        self.seconds = time.perf_counter() - began

    def compare(self, model: Any) -> Divergence:
        """Measure a model that shares the original's tokens."""
        began = time.perf_counter()
        kl = same = loss = weight = 0.0
        told = zip(self._batches, self._goals, self._logits(model), strict=True)
        for batch, goal, logits in told:
            weights, targets = batch.parts[0]["weights"], batch.parts[0]["targets"]
            parts: Any = mx.stack(
                [
                    (kl_to_teacher(logits, goal) * weights).sum(),
                    ((logits.argmax(-1) == goal.argmax(-1)) * weights).sum(),
                    (cross_entropy(logits, targets) * weights).sum(),
                    weights.sum(),
                ]
            ).tolist()
            kl, same, loss, weight = (
                total + float(part)
                for total, part in zip((kl, same, loss, weight), parts, strict=True)
            )
        self.seconds += time.perf_counter() - began
        return Divergence(max(0.0, kl / weight), same / weight, loss / weight, int(weight))

    def compare_kl(self, model: Any) -> float:
        """The KL alone."""
        return self.compare(model).kl

    def _logits(self, model: Any) -> Iterator[mx.array]:
        """Of each batch in turn."""
        with _evaluating(model):
            begun = None if self._beginning is None else Beginning(model, self._beginning)
        for batch in self._batches:
            arrays = batch.parts[0]
            with _evaluating(model):
                if begun is None:
                    logits = answer_logits(model, arrays, self._able)
                else:
                    states = begun.states_after(model, arrays["tokens"]).flatten(0, 1)
                    logits = project(model, states[arrays["places"]])
                logits = logits.astype(mx.float32)
                mx.eval(logits)
            yield logits


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    yield
    model.train(was_training)


def _thinned(rows: Sequence[Row]) -> list[Row]:
    """The rows with at most `_MOST_TOKENS` places to compare, evenly spread.

    The original's predictions are all held in memory, a vocabulary wide each.
    """
    total = sum(int((row.goals > 0).sum()) for row in rows)
    if total <= _MOST_TOKENS:
        return list(rows)
    kept = np.zeros(total, bool)
    kept[np.linspace(0, total - 1, _MOST_TOKENS).astype(int)] = True
    thin, start = [], 0
    for row in rows:
        places = np.flatnonzero(row.goals)
        goals = np.zeros_like(row.goals)
        goals[places[kept[start : start + len(places)]]] = 1.0
        start += len(places)
        if goals.any():
            thin.append(replace(row, goals=goals))
    return thin
