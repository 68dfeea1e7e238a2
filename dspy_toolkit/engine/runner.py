"""One run of the model over chosen rows, computing scores only where a token will be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import KVCache, make_prompt_cache

from dspy_toolkit.engine.slots import Slots


class LastToken(nn.Module):  # type: ignore[misc]  # MLX ships no types
    """Stands before a model's last norm and lets one token of each row through.

    The projection to the vocabulary is the dearest layer of a small model; of all the tokens that
    are read, only the last one's scores are wanted.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm
        self._places: mx.array | None = None

    def __call__(self, hidden: mx.array) -> mx.array:
        if self._places is not None:
            hidden = mx.take_along_axis(hidden, self._places[:, None, None], axis=1)
        normed: mx.array = self.norm(hidden)
        return normed


class Runner:
    """A model whose rows share one memory, `slots`.

    Args:
        model: mlx-lm's module; its last norm is wrapped where it has the usual name.

    Raises:
        Unshareable: the model keeps something else than plain keys and values.
    """

    def __init__(self, model: Any) -> None:
        caches = make_prompt_cache(model)
        odd = {type(cache).__name__ for cache in caches if type(cache) is not KVCache}
        if odd:
            raise Unshareable(f"its memory ({', '.join(sorted(odd))}) cannot be cut at any token")
        self.model = model
        self._layers = len(caches)
        self._last = _wrapped_norm(model)
        self.slots = Slots(self._layers)
        _try_out(self, model)
        self.slots = Slots(self._layers)

    def run(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> mx.array:
        """Let rows take tokens, a different number each.

        Returns:
            (rows, vocab) scores of what follows the last token of each row, not evaluated.
        """
        width = max(len(row) for row in tokens)
        inputs = np.zeros((len(tokens), width), dtype=np.int32)
        for row, ids in enumerate(tokens):
            inputs[row, : len(ids)] = ids
        return self.run_array(slots, mx.array(inputs), [len(ids) for ids in tokens])

    def run_array(self, slots: Sequence[int], inputs: mx.array, counts: Sequence[int]) -> mx.array:
        """The same over an array (rows, width), of which each row's first `counts` are real."""
        self.slots.aim(slots, inputs.shape[1])
        places = None if inputs.shape[1] == 1 else mx.array([count - 1 for count in counts])
        if self._last is not None:
            self._last._places = places
        logits: mx.array = self.model(inputs, cache=self.slots.layers)
        if self._last is None and places is not None:
            logits = mx.take_along_axis(logits, places[:, None, None], axis=1)
        for slot, count in zip(slots, counts, strict=True):
            self.slots.advance(slot, count)
        return logits[:, 0]


class Unshareable(ValueError):
    """Rows of this model cannot share a memory of this kind; the message says why."""


def _wrapped_norm(model: Any) -> LastToken | None:
    for path in (("model",), ("language_model", "model")):
        inner = model
        for name in path:
            inner = getattr(inner, name, None)
        norm = getattr(inner, "norm", None)
        if isinstance(norm, LastToken):
            return norm
        if isinstance(norm, nn.Module):
            inner.norm = wrapped = LastToken(norm)
            return wrapped
    return None


def _try_out(runner: Runner, model: Any) -> None:
    """Hold a few tokens of two unequal rows against the model's own way of running them."""
    expected = []
    for row in ([1, 2, 3, 4, 5], [5, 4, 3]):
        expected.append(model(mx.array([row]), cache=make_prompt_cache(model))[0, -1])
    wanted = np.array(mx.stack(expected).astype(mx.float32))
    slots = [runner.slots.take(), runner.slots.take()]
    try:
        runner.run(slots, [[1, 2, 3], [5]])
        given = np.array(runner.run(slots, [[4, 5], [4, 3]]).astype(mx.float32))
    # Models do with a cache what they like, and raise what they like.
    except Exception as error:
        raise Unshareable(f"it does not run on shared memory ({error})") from error
    finally:
        if runner._last is not None:
            runner._last._places = None
    if given.shape != wanted.shape or not np.allclose(
        given, wanted, atol=0.05 * float(np.abs(wanted).max())
    ):
        raise Unshareable("it answers otherwise on shared memory")
