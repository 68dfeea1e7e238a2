"""The residual stream of a llama-like model between its blocks."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from dspy_toolkit.compression.subject import Unsupported
from dspy_toolkit.training.backbone import project


def block_states(model: Any, tokens: mx.array, embedded: mx.array | None = None) -> list[mx.array]:
    """The stream before the first block and after each.

    Args:
        tokens: (rows, length) int32.
        embedded: (rows, length, width) instead of the tokens' embeddings.

    Returns:
        Arrays (rows, length, width), one more than there are blocks.
    """
    from mlx_lm.models.base import create_attention_mask

    stream = model.model.embed_tokens(tokens) if embedded is None else embedded
    mask = create_attention_mask(stream, None)
    states = [stream]
    for block in model.model.layers:
        states.append(block(states[-1], mask, None))
    return states


def final_logits(model: Any, states: list[mx.array]) -> mx.array:
    """Logits (rows, length, vocabulary) of `block_states`."""
    return project(model, model.model.norm(states[-1]))


def require_states(model: Any, vocabulary: int, reference: str) -> None:
    """Make sure that `block_states` is what a model computes.

    Raises:
        Unsupported: it is not.
    """
    tokens = (mx.arange(12) * 7919 % vocabulary)[None]
    try:
        error = mx.abs(final_logits(model, block_states(model, tokens)) - model(tokens)).max()
        holds = bool((error <= 3e-2 * (1 + mx.abs(model(tokens)).max())).item())
    # Whatever a foreign architecture raises when it is built otherwise means the same.
    except (AttributeError, TypeError, ValueError, IndexError, KeyError):
        holds = False
    if not holds:
        raise Unsupported(
            f"the blocks of {reference} cannot be run one by one, so their states cannot be "
            "compared; leave out --hidden and --attribution"
        )
