"""What a model writes by itself, at temperature 1."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


def sample(model: Any, prompts: mx.array, steps: int, seed: int) -> mx.array:
    """Let a model go on at temperature 1.

    Args:
        prompts: (rows, length) int32, equally long.
        steps: tokens to draw.

    Returns:
        (rows, length + steps) int32.
    """
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    key = mx.random.key(seed)
    whole, fresh = [prompts], prompts
    for _ in range(steps):
        key, draw = mx.random.split(key)
        logits = model(fresh, cache=cache)[:, -1]
        fresh = mx.random.categorical(logits.astype(mx.float32), key=draw)[:, None]
        fresh = fresh.astype(prompts.dtype)
        mx.eval(fresh, [each.state for each in cache])
        whole.append(fresh)
    return mx.concatenate(whole, axis=1)
