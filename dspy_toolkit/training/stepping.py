"""One training step: gradients of a few micro-batches, one update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.optimizers import clip_grad_norm
from mlx.utils import tree_flatten, tree_map

from dspy_toolkit.training.batches import Batch
from dspy_toolkit.training.gradients import ManyThreads, OneThread
from dspy_toolkit.training.language_loss import Loss
from dspy_toolkit.training.order import mlx_seed

_NO_LIMIT = math.inf


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step came to.

    Attributes:
        losses: sum of the loss of each micro-batch.
        weight: what the sums are over, in all.
        norm: of the step's gradient, before clipping.
    """

    losses: tuple[float, ...]
    weight: float
    norm: float

    @property
    def loss(self) -> float:
        """Mean loss, in nats a token for a language model."""
        return sum(self.losses) / self.weight

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.norm) and all(map(math.isfinite, self.losses))


class Stepper:
    """Changes a model, step by step.

    Gradients of sums are added up and divided once by what they are a sum over, so a step of
    four micro-batches is the step of one batch four times as large.

    Args:
        model: an MLX module; what is not frozen is trained.
        optimizer: MLX's.
        gradients: computes the gradients of a micro-batch's parts.
        clip_norm: largest norm of the gradient, or None.
        compiled: whether MLX compiles the update. That pays on a GPU; on a CPU it saves about 6 %
            and has a C++ compiler build some 30 kernels first.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        gradients: OneThread | ManyThreads,
        clip_norm: float | None,
        compiled: bool,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._gradients = gradients
        self._clip_norm = clip_norm if clip_norm is not None else _NO_LIMIT
        optimizer.init(model.trainable_parameters())
        self._apply = self._update
        if compiled:
            changed = [model.state, optimizer.state]
            self._apply = mx.compile(self._update, inputs=changed, outputs=changed)

    def step(self, batches: Sequence[Batch], rate: float, seed: int = 0) -> StepResult:
        """Make one update from micro-batches, with a learning rate and a seed for dropout."""
        self._optimizer.learning_rate = rate
        losses, weight, total, number = [], 0.0, None, 0
        for batch in batches:
            seeds = [mlx_seed(seed, number + i) for i in range(len(batch.parts))]
            number += len(seeds)
            found = self._gradients.gradients(batch.parts, seeds)
            losses.append(sum(_number(loss) for loss, _, _ in found))
            weight += sum(_number(share) for _, share, _ in found)
            for _, _, gradient in found:
                total = gradient if total is None else tree_map(_sum, total, gradient)
            mx.eval(total)
        norm = self._apply(total, mx.array(weight, mx.float32))
        mx.eval(norm, self._model.trainable_parameters(), self._optimizer.state)
        return StepResult(tuple(losses), weight, _number(norm))

    def close(self) -> None:
        """End the threads that compute gradients."""
        self._gradients.close()

    def _update(self, total: Any, weight: mx.array) -> mx.array:
        mean = tree_map(lambda each: (each / weight).astype(each.dtype), total)
        norm: mx.array
        clipped, norm = clip_grad_norm(mean, self._clip_norm)
        self._optimizer.update(self._model, clipped)
        return norm


def mean_loss(model: Any, loss: Loss, batches: Sequence[Batch]) -> float:
    """Mean loss over batches, without dropout and without changing the model."""
    was_training = model.training
    model.eval()
    total = weight = 0.0
    try:
        for batch in batches:
            for arrays in batch.parts:
                part, share = loss(model, arrays)
                mx.eval(part, share)
                total += _number(part)
                weight += _number(share)
    finally:
        model.train(was_training)
    return total / weight


def finite(model: Any) -> bool:
    """Whether every trained weight is a number."""
    checks = [mx.isfinite(each).all() for _, each in tree_flatten(model.trainable_parameters())]
    return bool(mx.stack(checks).all().item())


def _number(array: mx.array) -> float:
    value: Any = array.item()
    return float(value)


def _sum(left: mx.array, right: mx.array) -> mx.array:
    return left + right
