"""Where mlx-lm's models are met on their way: attention and gates of our own inside our runs.

mlx-lm's models call functions of their module by name. Those names are bound anew, once; callers
whose cache is not ours, or who are not inside a run of ours, see no change.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import mlx.core as mx
from mlx_lm.models import activations, base

from dspy_toolkit.engine.attention import attend
from dspy_toolkit.engine.cpu_math import gate
from dspy_toolkit.engine.packing import Packing
from dspy_toolkit.engine.slots import LayerSlots

_ATTENTION = "scaled_dot_product_attention"
_GATE = "swiglu"
# Below this many numbers evaluating them on the way costs more than it saves.
_WORTH_IT = 1 << 12
_running = threading.local()


@contextmanager
def on_cpu() -> Iterator[None]:
    """Inside, this thread runs a model on a CPU for us."""
    _running.cpu = True
    try:
        yield
    finally:
        _running.cpu = False


def bind(model: Any) -> None:
    """Bind the names in the modules that the model's classes come from."""
    for module in _modules(model):
        _rebind(module, _ATTENTION, base.scaled_dot_product_attention, _attention)
        _rebind(module, _GATE, activations.swiglu, _swiglu)


def _modules(model: Any) -> list[ModuleType]:
    names = {type(part).__module__ for part in (model, *model.modules())}
    return [sys.modules[name] for name in sorted(names)]


def _rebind(module: ModuleType, name: str, usual: Any, ours: Callable[..., Any]) -> None:
    if getattr(module, name, None) is usual:
        setattr(module, name, ours)


def _attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: Any,
    sinks: mx.array | None = None,
) -> mx.array:
    packing = cache.packing if isinstance(cache, LayerSlots) else None
    if not isinstance(cache, LayerSlots) or cache.ends is None:
        return _attended(queries, keys, values, cache, scale, mask, sinks, packing)
    shape = queries.shape
    if packing is not None:
        queries = queries[:, :, packing.ends].transpose(2, 1, 0, 3)
    else:
        ends = mx.array(cache.ends)[:, None, None, None]
        queries = mx.take_along_axis(queries, ends, axis=2)
    out = _attended(queries, keys, values, cache, scale, cache.end_mask(), sinks, None)
    if packing is not None:
        return out[packing.rows].transpose(2, 1, 0, 3)
    return mx.broadcast_to(out, (*shape[:3], out.shape[3]))


def _attended(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: Any,
    sinks: mx.array | None,
    packing: Packing | None,
) -> mx.array:
    shared = cache.shared if isinstance(cache, LayerSlots) else ()
    rows, heads, width, _ = queries.shape
    numpy = (
        getattr(_running, "cpu", False)
        and isinstance(cache, LayerSlots)
        and queries.dtype == mx.float32
        and rows * heads * width * (keys.shape[2] + sum(s.keys.shape[2] for s in shared))
        >= _WORTH_IT
    )
    if sinks is not None and (shared or packing):
        raise NotImplementedError("attention sinks over what rows share")
    if sinks is not None or not (shared or numpy or packing):
        usual: mx.array = base.scaled_dot_product_attention(
            queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks
        )
        return usual
    return attend(queries, keys, values, scale, mask, shared, numpy, packing)


def _swiglu(gates: mx.array, values: mx.array) -> mx.array:
    if (
        not getattr(_running, "cpu", False)
        or gates.dtype != mx.float32
        or values.dtype != mx.float32
        or gates.size < _WORTH_IT
    ):
        usual: mx.array = activations.swiglu(gates, values)
        return usual
    mx.eval(gates, values)
    return gate(gates, values)
