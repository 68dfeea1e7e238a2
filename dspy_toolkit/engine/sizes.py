"""How large a model is, from its configuration and the headers of its files alone."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from dspy_toolkit.engine.source import read_header

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "n_positions",
    "n_ctx",
)


def parameter_count(files: list[Path], config: dict[str, Any]) -> int:
    """Parameters of a model; packed ones are counted as what they stand for."""
    return sum(count for file in files for count in _parameters(read_header(file), config))


def quantization(config: dict[str, Any]) -> dict[str, Any] | None:
    """The quantization a configuration names, or None."""
    for part in (config, config.get("text_config") or {}):
        for key in ("quantization", "quantization_config"):
            if isinstance(part.get(key), dict):
                return dict(part[key])
    return None


def context_length(config: dict[str, Any]) -> int | None:
    """Longest sequence a configuration names, or None."""
    for part in (config, config.get("text_config") or {}):
        for key in _CONTEXT_KEYS:
            if isinstance(part.get(key), int):
                return int(part[key])
    return None


def cache_values_per_token(config: dict[str, Any]) -> int | None:
    """Numbers kept for each token of a running call: keys and values of every layer.

    None where the architecture keeps something else than plain keys and values.
    """
    part = {**config, **(config.get("text_config") or {})}
    heads = part.get("num_attention_heads")
    layers, hidden = part.get("num_hidden_layers"), part.get("hidden_size")
    if not (isinstance(heads, int) and isinstance(layers, int) and isinstance(hidden, int)):
        return None
    size = part.get("head_dim") or hidden // heads
    return 2 * layers * int(part.get("num_key_value_heads") or heads) * int(size)


def _parameters(tensors: dict[str, Any], config: dict[str, Any]) -> Iterator[int]:
    packing = quantization(config) or {}
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        scales = tensors.get(f"{stem}.scales")
        if leaf in ("scales", "biases") and f"{stem}.weight" in tensors:
            continue
        if leaf == "weight" and scales is not None and tensor["dtype"] == "U32":
            own = packing.get(stem)
            group = (own if isinstance(own, dict) else packing).get("group_size", 64)
            yield prod(scales["shape"]) * group
        else:
            yield prod(tensor["shape"])
