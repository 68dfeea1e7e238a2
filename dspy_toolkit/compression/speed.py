"""How fast a model reads and writes, on the device it is on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from dspy_toolkit.training.packing import Row


def speeds(model: Any, rows: int, prompt: int, new: int, vocabulary: int) -> tuple[float, float]:
    """Time one batch: reading prompts together, then one token a row and step.

    Args:
        rows: prompts at once.
        prompt: tokens of each.
        new: tokens written for each, at least 2.

    Returns:
        Seconds until the first token of every row, and seconds of the `new - 1` steps after it.
    """
    from mlx_lm.models.cache import make_prompt_cache

    tokens = (mx.arange(rows * prompt) * 7919 % vocabulary).reshape(rows, prompt)
    cache = make_prompt_cache(model)
    mx.eval(tokens)
    began = time.perf_counter()
    fresh = model(tokens, cache=cache)[:, -1].argmax(axis=-1)[:, None]
    mx.eval(fresh)
    read = time.perf_counter()
    for _ in range(new - 1):
        fresh = model(fresh, cache=cache)[:, -1].argmax(axis=-1)[:, None]
        mx.eval(fresh)
    return read - began, time.perf_counter() - read


def replay_s(model: Any, row: Row) -> float:
    """Seconds of one call alone: its prompt is read, and as many tokens written as its answer has.

    Nothing is shared with other calls; an engine that keeps prefixes is faster.
    """
    from mlx_lm.models.cache import make_prompt_cache

    first = int(row.goals.argmax())
    tokens = mx.array(row.tokens[:first])[None]
    cache = make_prompt_cache(model)
    began = time.perf_counter()
    fresh = model(tokens, cache=cache)[:, -1].argmax(axis=-1)[:, None]
    for _ in range(len(row.tokens) - first - 1):
        mx.eval(fresh)
        fresh = model(fresh, cache=cache)[:, -1].argmax(axis=-1)[:, None]
    mx.eval(fresh)
    return time.perf_counter() - began


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, the next one seen upwards."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
