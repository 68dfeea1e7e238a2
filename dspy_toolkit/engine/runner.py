"""One run of the model over chosen rows, computing scores only where a token will be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, make_prompt_cache

from dspy_toolkit.engine.prefix_tree import PrefixTree
from dspy_toolkit.engine.seams import bind, on_cpu
from dspy_toolkit.engine.slots import Lent, Slots, Stretch, split_stretch, stretch_bytes
from dspy_toolkit.engine.source import one_line


class LastToken(nn.Module):  # type: ignore[misc]  # MLX ships no types
    """Stands before a model's last norm and lets one token of each row through.

    The projection to the vocabulary is the dearest layer of a small model; of all the tokens that
    are read, only the last one's scores are wanted.

    Attributes:
        ends: places of these tokens, (rows, 1, 1), or None to let all through.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm
        self.ends: mx.array | None = None

    def __call__(self, hidden: mx.array) -> mx.array:
        if self.ends is not None:
            hidden = mx.take_along_axis(hidden, self.ends, axis=1)
        normed: mx.array = self.norm(hidden)
        return normed


class Runner:
    """A model whose rows share one memory, `slots`.

    Args:
        model: mlx-lm's module; its last norm is wrapped where it has the usual name.
        cpu: whether it runs on a CPU.

    Attributes:
        token_bytes: memory of one token's keys and values in all layers.
        copies: why rows look back at a copy of what they share, or None where they share it.

    Raises:
        Unshareable: the model keeps something else than plain keys and values.
    """

    def __init__(self, model: Any, cpu: bool) -> None:
        caches = make_prompt_cache(model)
        odd = {type(cache).__name__ for cache in caches if type(cache) is not KVCache}
        if odd:
            raise Unshareable(f"its memory ({', '.join(sorted(odd))}) cannot be cut at any token")
        self.model = model
        self._cpu = cpu
        self._last = _wrapped_norm(model)
        self.slots = Slots(len(caches))
        bind(model)
        self.token_bytes = 0
        self.copies = _try_out(self, model, lend=True)
        if self.copies is not None:
            refused = _try_out(self, model, lend=False)
            if refused is not None:
                raise Unshareable(refused)

    @property
    def weight_bytes(self) -> int:
        """Memory of the model's weights."""
        return sum(int(array.nbytes) for _, array in tree_flatten(self.model.parameters()))

    def run(
        self, slots: Sequence[int], tokens: Sequence[Sequence[int]], every: bool = False
    ) -> mx.array:
        """Let rows take tokens, a different number each.

        Args:
            slots: of the rows.
            tokens: at least one for each row.
            every: whether the scores after every token are wanted, not only after the last.

        Returns:
            (rows, vocab) scores of what follows the last token of each row, not evaluated; with
            `every`, (rows, width, vocab), where what lies beyond a row's tokens means nothing.
        """
        width = max(len(row) for row in tokens)
        inputs = np.zeros((len(tokens), width), dtype=np.int32)
        for row, ids in enumerate(tokens):
            inputs[row, : len(ids)] = ids
        return self.run_array(slots, mx.array(inputs), [len(ids) for ids in tokens], every)

    def run_array(
        self, slots: Sequence[int], inputs: mx.array, counts: Sequence[int], every: bool = False
    ) -> mx.array:
        """The same over an array (rows, width), of which each row's first `counts` are real."""
        self.slots.aim(slots, inputs.shape[1])
        ends = None
        if inputs.shape[1] > 1 and not every:
            ends = mx.array([count - 1 for count in counts])[:, None, None]
        if self._last is not None:
            self._last.ends = ends
        with on_cpu() if self._cpu else nullcontext():
            logits: mx.array = self.model(inputs, cache=self.slots.layers)
        if self._last is not None:
            self._last.ends = None
        elif ends is not None:
            logits = mx.take_along_axis(logits, ends, axis=1)
        for slot, count in zip(slots, counts, strict=True):
            self.slots.advance(slot, count)
        return logits if every else logits[:, 0]


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


def _try_out(runner: Runner, model: Any, lend: bool) -> str | None:
    """Hold two rows that share a beginning against the model's own way of running them.

    Args:
        lend: whether they look back at one stretch, or each at a copy of it.

    Returns:
        Why it does not work, or None.
    """
    rows = ([1, 2, 3, 4, 5], [1, 2, 5, 3])
    expected = [model(mx.array([row]), cache=make_prompt_cache(model))[0, -1] for row in rows]
    wanted = np.array(mx.stack(expected).astype(mx.float32))
    slots = runner.slots
    try:
        first = slots.take()
        mx.eval(runner.run([first], [rows[0][:2]]))
        stretch = slots.copy(first, 0, 2)
        mx.eval(stretch)
        runner.token_bytes = stretch_bytes(stretch) // 2
        slots.free(first)
        tree: PrefixTree[Stretch] = PrefixTree(stretch_bytes(stretch), stretch_bytes, split_stretch)
        tree.insert([1, 2], lambda begin: stretch)
        both = [slots.take(Lent(tree.hold([1, 2]), least=2 if lend else 3)) for _ in rows]
        mx.eval(runner.run(both, [[3, 4], [5]]))
        given = np.array(runner.run(both, [[5], [3]]).astype(mx.float32))
    # Models do with a cache what they like, and raise what they like.
    except Exception as error:  # noqa: BLE001
        return f"it does not run on shared memory ({one_line(error)})"
    finally:
        slots.clear()
    if lend and not all(layer.asked for layer in slots.layers):
        return "its attention does not go through mlx-lm's common function"
    if given.shape != wanted.shape or not np.allclose(
        given, wanted, atol=0.05 * float(np.abs(wanted).max())
    ):
        return "it answers otherwise on shared memory"
    return None
