"""Losses. Each gives one number an item, in nats unless said; callers sum and weigh them.

Arithmetic is in float32, whatever the type of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

# Keeps (1 - p) ** gamma differentiable where a token is certain.
_SMALLEST_DOUBT = 1e-6


def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Surprise at the right classes.

    Args:
        logits: (..., classes), unnormalised.
        targets: (...), integers below `classes`.

    Returns:
        (...), float32.
    """
    outputs: Any = _surprise(logits.astype(mx.float32), targets)
    surprise: mx.array = outputs[0]
    return surprise


def label_smoothing(logits: mx.array, targets: mx.array, smoothing: float) -> mx.array:
    """Cross-entropy against goals of which a share is spread evenly over all classes.

    Args:
        logits: (..., classes). targets: (...), integers.
        smoothing: the share, in [0, 1); 0 is plain cross-entropy.

    Source:
        Szegedy et al., "Rethinking the Inception Architecture", arXiv:1512.00567.
    """
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"smoothing must lie in [0, 1), got {smoothing}")
    logits = logits.astype(mx.float32)
    total = mx.logsumexp(logits, axis=-1)
    return total - (1 - smoothing) * _picked(logits, targets) - smoothing * logits.mean(axis=-1)


def focal(logits: mx.array, targets: mx.array, gamma: float) -> mx.array:
    """Cross-entropy that counts items less, the surer the model is of them.

    Args:
        logits: (..., classes). targets: (...), integers.
        gamma: at least 0; 0 is plain cross-entropy, 2 counts p = 0.9 a hundredth as much.

    Source:
        Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002.
    """
    if gamma < 0.0:
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    surprise = cross_entropy(logits, targets)
    doubt = mx.maximum(1 - mx.exp(-surprise), _SMALLEST_DOUBT)
    return mx.power(doubt, gamma) * surprise


def binary(logits: mx.array, targets: mx.array) -> mx.array:
    """Cross-entropy of independent yes-or-no questions.

    Args:
        logits: (...), the logit of yes.
        targets: (...), the probability of yes that is right, in [0, 1].
    """
    logits = logits.astype(mx.float32)
    return mx.logaddexp(mx.zeros_like(logits), logits) - targets * logits


def kl_to_teacher(logits: mx.array, teacher: mx.array, temperature: float = 1.0) -> mx.array:
    """Divergence of a teacher's distribution from the student's, KL(teacher || student).

    Args:
        logits, teacher: (..., classes), unnormalised. No gradient goes to the teacher.
        temperature: above 0; both are divided by it, and the result is multiplied with its
            square, so that gradients keep their size.

    Source:
        Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """
    if temperature <= 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    student = _log_probabilities(logits.astype(mx.float32) / temperature)
    goal = _log_probabilities(mx.stop_gradient(teacher).astype(mx.float32) / temperature)
    return (mx.exp(goal) * (goal - student)).sum(axis=-1) * temperature**2


def huber(values: mx.array, targets: mx.array, delta: float = 1.0) -> mx.array:
    """Half the squared error up to `delta`, and beyond it a straight line that continues it."""
    if delta <= 0.0:
        raise ValueError(f"delta must be above 0, got {delta}")
    error = mx.abs(values.astype(mx.float32) - targets)
    near = mx.minimum(error, delta)
    return 0.5 * near * near + delta * (error - near)


def weighted_sum(losses: Mapping[str, mx.array], weights: Mapping[str, float]) -> mx.array:
    """One loss for several tasks.

    Args:
        losses: (items,) by task; 0 where an item says nothing about a task.
        weights: how much each task counts; a task that is not named counts 1.

    Raises:
        ValueError: there is no task, a weight is negative, or one names no task.
    """
    strangers = weights.keys() - losses.keys()
    if strangers or not losses or any(weight < 0 for weight in weights.values()):
        raise ValueError(f"weights {dict(weights)} do not fit the tasks {sorted(losses)}")
    parts = [weights.get(task, 1.0) * loss for task, loss in losses.items()]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


@mx.custom_function
def _surprise(logits: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
    """Cross-entropy, and the probabilities that its gradient needs.

    Left to itself MLX takes every exponential twice, once forwards and once backwards; over a
    vocabulary on a CPU that is a good part of a step.
    """
    top = logits.max(axis=-1, keepdims=True)
    powers = mx.exp(logits - top)
    total = powers.sum(axis=-1, keepdims=True)
    return (mx.log(total) + top).squeeze(-1) - _picked(logits, targets), powers / total


@_surprise.vjp
def _surprise_gradient(
    primals: tuple[mx.array, mx.array],
    cotangents: tuple[mx.array, mx.array],
    outputs: tuple[mx.array, mx.array],
) -> tuple[mx.array, mx.array]:
    places = primals[1][..., None]
    shares = outputs[1]
    right = mx.take_along_axis(shares, places, axis=-1)
    slope = mx.put_along_axis(shares, places, right - 1, axis=-1)
    return slope * cotangents[0][..., None], mx.zeros_like(primals[1])


def _picked(logits: mx.array, targets: mx.array) -> mx.array:
    return mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)


def _log_probabilities(logits: mx.array) -> mx.array:
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
