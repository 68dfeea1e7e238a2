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

from dspy_toolkit.engine.packing import Packing
from dspy_toolkit.engine.prefix_tree import PrefixTree
from dspy_toolkit.engine.rotary import Rotary, share_angles
from dspy_toolkit.engine.seams import bind, on_cpu
from dspy_toolkit.engine.sharing import uncuttable
from dspy_toolkit.engine.slots import Slots
from dspy_toolkit.engine.source import one_line
from dspy_toolkit.engine.stretches import Lent, Stretch, split_stretch, stretch_bytes

# Shorter stretches are copied: looking back at one more stretch costs more in every step.
_LEAST_LENT = 128
# Less padding costs less than packing does.
_LEAST_PADDING = 16
_NEVER = 1 << 62
_TRIAL = ([1, 2, 3, 4, 5], [1, 2, 5, 3])


class LastToken(nn.Module):  # type: ignore[misc]  # MLX ships no types
    """Stands around a part of a model and lets one token of each row through to it.

    Of all the tokens that are read, only the last one's scores are wanted: what comes after the
    last layer's keys and values, and the projection to the vocabulary most of all, need not be
    computed for the others.

    Attributes:
        ends: places of these tokens, (rows, 1, 1), or None to let all through.
        packing: where rows' tokens are, if they come one after the other; `ends` is (1, rows, 1).
    """

    def __init__(self, part: Any, spread: bool) -> None:
        super().__init__()
        self.part = part
        self.ends: mx.array | None = None
        self.packing: Packing | None = None
        self._spread = spread

    def __call__(self, hidden: mx.array) -> mx.array:
        """What the part makes of these tokens, (rows, 1, size), or spread over all places."""
        if self.ends is None:
            out: mx.array = self.part(hidden)
            return out
        out = self.part(mx.take_along_axis(hidden, self.ends, axis=1))
        if self._spread and self.packing is not None:
            out = out[:, self.packing.rows]
        elif self._spread:
            out = mx.broadcast_to(out, (*hidden.shape[:2], out.shape[2]))
        return out


class Runner:
    """A model whose rows share one memory, `slots`.

    Args:
        model: mlx-lm's module; its last norm is wrapped where it has the usual name.
        cpu: whether it runs on a CPU.

    Attributes:
        token_bytes: memory of one token's keys and values in all layers.
        least_lent: shorter stretches of what rows share are copied.
        packs: whether rows of different widths may come one after the other, without padding.
        least_padding: tokens of padding from which on they do.
        copies: why rows look back at a copy of what they share, or None where they share it.

    Raises:
        Unshareable: the model keeps something else than plain keys and values, or answers
            otherwise on shared memory; it is as it was.
    """

    def __init__(self, model: Any, cpu: bool) -> None:
        caches = make_prompt_cache(model)
        reason = uncuttable(caches)
        if reason is not None:
            raise Unshareable(reason)
        windows = [cache.max_size if type(cache) is not KVCache else None for cache in caches]
        # Before anything stands around its parts.
        expected = _own_scores(model)
        self.model = model
        self._cpu = cpu
        self._norm = _around_last_norm(model)
        self._ended = [part for part in (self._norm, _around_last_mlp(model)) if part is not None]
        self.slots = Slots(windows)
        bind(model)
        if cpu:
            share_angles(model)
        self.token_bytes = 0
        # Copied tokens lie out of order, of which a window would have to know.
        self.least_lent = 1 if any(windows) else _LEAST_LENT
        self.slots.layers[-1].narrow = True
        self.packs, self.least_padding = False, _LEAST_PADDING
        self.copies = _try_out(self, expected, lend=True)
        if self.copies is not None:
            self._narrow_no_more()
            self.copies = _try_out(self, expected, lend=True)
        if self.copies is not None:
            refused = _try_out(self, expected, lend=False)
            if refused is not None:
                _unwrap(model)
                raise Unshareable(refused)
            self.least_lent = _NEVER
        if cpu and self.copies is None and not any(windows):
            # Positions of packed tokens are known to our own rotations alone.
            self.packs, self.least_padding = True, 1
            self.packs = _try_out(self, expected, lend=True) is None
            self.least_padding = _LEAST_PADDING

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
        counts = [len(row) for row in tokens]
        width = max(counts)
        if self.packs and not every and width * len(counts) - sum(counts) >= self.least_padding:
            line = mx.array([token for row in tokens for token in row], dtype=mx.int32)[None]
            return self.run_array(slots, line, counts, packing=Packing(counts))
        inputs = np.zeros((len(tokens), width), dtype=np.int32)
        for row, ids in enumerate(tokens):
            inputs[row, : len(ids)] = ids
        return self.run_array(slots, mx.array(inputs), counts, every)

    def run_array(
        self,
        slots: Sequence[int],
        inputs: mx.array,
        counts: Sequence[int],
        every: bool = False,
        packing: Packing | None = None,
    ) -> mx.array:
        """The same over an array (rows, width), of which each row's first `counts` are real.

        With a packing the array is (1, tokens), all of them real.
        """
        width = inputs.shape[1] if packing is None else max(counts)
        ends = [count - 1 for count in counts] if width > 1 and not every else None
        self.slots.aim(slots, width, ends, packing)
        places = None if ends is None else mx.array(ends)[:, None, None]
        if packing is not None:
            places = packing.ends[None, :, None]
        for part in self._ended:
            part.ends, part.packing = places, packing
        with on_cpu() if self._cpu else nullcontext():
            logits: mx.array = self.model(inputs, cache=self.slots.layers)
        for part in self._ended:
            part.ends = part.packing = None
        if self._norm is None and places is not None:
            logits = mx.take_along_axis(logits, places, axis=1)
        for slot, count in zip(slots, counts, strict=True):
            self.slots.advance(slot, count)
        if packing is not None:
            return logits[0]
        return logits if every else logits[:, 0]

    def _narrow_no_more(self) -> None:
        self.slots.layers[-1].narrow = False
        self._ended = [part for part in self._ended if part is self._norm]


class Unshareable(ValueError):
    """Rows of this model cannot share a memory of this kind; the message says why."""


def _around_last_norm(model: Any) -> LastToken | None:
    for path in (("model",), ("language_model", "model")):
        inner = model
        for name in path:
            inner = getattr(inner, name, None)
        found = _around(inner, "norm", spread=False)
        if found is not None:
            return found
    return None


def _around_last_mlp(model: Any) -> LastToken | None:
    layers = getattr(model, "layers", None)
    if not isinstance(layers, list) or not layers:
        return None
    return _around(layers[-1], "mlp", spread=True)


def _around(owner: Any, name: str, spread: bool) -> LastToken | None:
    """Put a `LastToken` around a part, or find the one that is there."""
    part = getattr(owner, name, None)
    if not isinstance(part, nn.Module):
        return None
    if not isinstance(part, LastToken):
        part = LastToken(part, spread)
        setattr(owner, name, part)
    return part


def _unwrap(model: Any) -> None:
    """Take away whatever stands around parts of a model."""
    for module in model.modules():
        for name, part in list(module.items()):
            while isinstance(part, LastToken | Rotary):
                part = part.part
                setattr(module, name, part)


def _own_scores(model: Any) -> np.ndarray:
    """Scores, (4, vocab), of the trial rows' beginnings and of all of them, each row alone."""
    rows = (_TRIAL[0][:4], _TRIAL[1][:3], *_TRIAL)
    scores = [model(mx.array([row]), cache=make_prompt_cache(model))[0, -1] for row in rows]
    return np.array(mx.stack(scores).astype(mx.float32))


def _try_out(runner: Runner, wanted: np.ndarray, lend: bool) -> str | None:
    """Hold two rows that share a beginning against the model's own way of running them.

    Args:
        wanted: `_own_scores`.
        lend: whether they look back at one stretch, or each at a copy of it.

    Returns:
        Why it does not work, or None.
    """
    slots = runner.slots
    try:
        first = slots.take()
        mx.eval(runner.run([first], [_TRIAL[0][:2]]))
        stretch = slots.copy(first, 0, 2)
        mx.eval(stretch)
        runner.token_bytes = stretch_bytes(stretch) // 2
        slots.free(first)
        tree: PrefixTree[Stretch] = PrefixTree(stretch_bytes(stretch), stretch_bytes, split_stretch)
        tree.insert([1, 2], lambda begin: stretch)
        both = [slots.take(Lent(tree.hold([1, 2]), least=2 if lend else 3)) for _ in _TRIAL]
        early = runner.run(both, [[3, 4], [5]])
        mx.eval(early)
        late = runner.run(both, [[5], [3]])
        given = np.array(mx.concatenate([early, late]).astype(mx.float32))
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
