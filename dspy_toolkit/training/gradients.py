"""Gradients of the parts of a batch, on several threads at once where that is asked for.

On a CPU MLX runs one operation at a time, and all but matrix products on one core. A part of the
batch for each core, on a thread of its own, uses them all. Parts are added up in their order, so
the result does not depend on which is ready first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from dspy_toolkit.training.language_loss import Arrays, Loss

Part = tuple[mx.array, mx.array, Any]
"""Loss, what it is a sum over, and its gradient."""


class OneThread:
    """Computes part after part.

    Args:
        model: an MLX module; what is not frozen is trained.
        loss: see `language_loss.Loss`.
        compiled: whether MLX compiles the gradient.
    """

    def __init__(self, model: Any, loss: Loss, compiled: bool) -> None:
        self._model = model
        self._gradient: Callable[..., Any] = nn.value_and_grad(model, loss)
        if compiled:
            # Taking a gradient puts the traced weights into the model, so they are outputs too.
            state = [model.state, mx.random.state]
            self._compute = mx.compile(self._plain, inputs=state, outputs=state)
        else:
            self._compute = self._plain

    def gradients(self, parts: Sequence[Arrays], seeds: Sequence[int]) -> list[Part]:
        """The evaluated gradient of each part; randomness in it is that of its seed."""
        self._model.train()
        found = []
        for arrays, seed in zip(parts, seeds, strict=True):
            mx.random.seed(seed)
            part: Part = self._compute(dict(arrays))
            mx.eval(part)
            found.append(part)
        return found

    def close(self) -> None:
        """Nothing is held."""

    def _plain(self, arrays: dict[str, mx.array]) -> Part:
        (loss, weight), gradient = self._gradient(self._model, arrays)
        return loss, weight, gradient


class ManyThreads:
    """Computes parts at the same time, on the CPU.

    Args:
        model: an MLX module; each thread has a twin of it that shares its arrays.
        loss: see `language_loss.Loss`.
        threads: how many.
    """

    def __init__(self, model: Any, loss: Loss, threads: int) -> None:
        # What is not computed yet can only be computed on the thread that asked for it.
        mx.eval(model.parameters())
        self._model = model
        self._twins = [twin(model) for _ in range(threads)]
        self._workers = [OneThread(each, loss, compiled=False) for each in self._twins]
        self._threads = [ThreadPoolExecutor(1, "gradient") for _ in range(threads)]

    def gradients(self, parts: Sequence[Arrays], seeds: Sequence[int]) -> list[Part]:
        """As `OneThread.gradients`, for at most as many parts as there are threads."""
        weights = self._model.trainable_parameters()
        waiting = [
            self._threads[i].submit(self._one, i, weights, arrays, seed)
            for i, (arrays, seed) in enumerate(zip(parts, seeds, strict=True))
        ]
        return [each.result() for each in waiting]

    def close(self) -> None:
        """End the threads. A thread's streams left to the end of the process would abort it."""
        for thread in self._threads:
            thread.submit(mx.clear_streams)
            thread.shutdown()

    def _one(self, index: int, weights: Any, arrays: Arrays, seed: int) -> Part:
        with mx.stream(mx.cpu):
            self._twins[index].update(weights)
            (part,) = self._workers[index].gradients([arrays], [seed])
            return part


def twin(model: Any) -> Any:
    """A module of the same build that shares the arrays of another."""
    shared = {id(array): array for _, array in tree_flatten(model.parameters())}
    return copy.deepcopy(model, shared)


def gradient_maker(model: Any, loss: Loss, workers: int, compiled: bool) -> OneThread | ManyThreads:
    """What computes a model's gradients, on one thread or more."""
    if workers == 1:
        return OneThread(model, loss, compiled)
    return ManyThreads(model, loss, workers)
