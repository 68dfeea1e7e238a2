"""What calls of a model can share, told by the memory it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from dspy_toolkit.engine.low_rank import model_classes


def uncuttable(caches: Sequence[Any]) -> str | None:
    """Why the memory of a model's layers cannot be shared up to any token, or None."""
    odd = {type(cache).__name__ for cache in caches if not _cuttable(cache)}
    return f"its memory ({', '.join(sorted(odd))}) cannot be cut at any token" if odd else None


def _cuttable(cache: Any) -> bool:
    """Whether a layer keeps plain keys and values, of all tokens or of the latest ones."""
    return type(cache) is KVCache or (type(cache) is RotatingKVCache and cache.keep == 0)


def shared_by_calls(config: dict[str, Any]) -> str:
    """What calls of a model will share, in one line; no weights are needed for it."""
    try:
        kind, arguments = model_classes(config)
        reason = uncuttable(make_prompt_cache(kind(arguments.from_dict(config))))
    # Models read their configuration as they like, and raise what they like.
    except Exception:  # noqa: BLE001
        return "not known before it is loaded"
    if reason is None:
        return "what prompts begin with, read once and stored once"
    return f"checkpoints of what prompts begin with, without grammars: {reason}"
