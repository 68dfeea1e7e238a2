"""The shape of a llama-like model, and cutting it down to a smaller one that loads as it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from dspy_toolkit.compression.subject import Subject, Unsupported

FAMILIES = {
    "llama": ("layers", "ffn", "heads", "width"),
    "mistral": ("layers", "ffn", "heads", "width"),
    "qwen3": ("layers", "ffn", "heads", "width"),
    # Its attention takes the size of a head from the model's width.
    "qwen2": ("layers", "ffn"),
}
"""What can be cut so that stock mlx-lm loads the result, by architecture."""

_AXES: dict[str, tuple[str, ...]] = {
    "self_attn.q_proj.weight": ("queries", "width"),
    "self_attn.k_proj.weight": ("keys", "width"),
    "self_attn.v_proj.weight": ("keys", "width"),
    "self_attn.o_proj.weight": ("width", "queries"),
    "mlp.gate_proj.weight": ("inner", "width"),
    "mlp.up_proj.weight": ("inner", "width"),
    "mlp.down_proj.weight": ("width", "inner"),
    "input_layernorm.weight": ("width",),
    "post_attention_layernorm.weight": ("width",),
    "self_attn.q_norm.weight": ("",),
    "self_attn.k_norm.weight": ("",),
    "self_attn.q_proj.bias": ("queries",),
    "self_attn.k_proj.bias": ("keys",),
    "self_attn.v_proj.bias": ("keys",),
    "self_attn.o_proj.bias": ("width",),
    "mlp.gate_proj.bias": ("inner",),
    "mlp.up_proj.bias": ("inner",),
    "mlp.down_proj.bias": ("width",),
}
_OUTER = {
    "model.embed_tokens.weight": ("", "width"),
    "model.norm.weight": ("width",),
    "lm_head.weight": ("", "width"),
}
_PREFIX = "model.layers."
_NOT_EVERYWHERE = {
    "qwen2": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "qwen3": ("self_attn.q_norm.weight", "self_attn.k_norm.weight"),
}
"""What a block has beside the projections and norms that all have."""


@dataclass(frozen=True)
class Layout:
    """Sizes of a llama-like model.

    Attributes:
        layers: number of blocks.
        width: of the residual stream.
        inner: of the feed-forward.
        groups: heads of keys and values.
        heads: of queries in a group.
        head: size of a head.
    """

    layers: int
    width: int
    inner: int
    groups: int
    heads: int
    head: int


@dataclass(frozen=True)
class Cut:
    """What is kept of a model, as sorted indices.

    Attributes:
        layers: blocks that stay, numbered as in the original.
        inner: channels of the feed-forward, for each block that stays; equally many everywhere.
        groups: groups of heads, likewise.
        width: channels of the residual stream.
    """

    layers: tuple[int, ...]
    inner: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...]
    width: tuple[int, ...]


def layout_of(
    subject: Subject, structure: str | None = None, done: str = "cut into a model that loads"
) -> Layout:
    """Read a model's sizes.

    Args:
        structure: what is to be cut, which the family must allow.
        done: what is to be done with the model, for the message.

    Raises:
        Unsupported: the architecture is none of `FAMILIES`, or does not allow it.
    """
    allowed = FAMILIES.get(subject.family)
    strange = [name for name in subject.tensors if not _known(name)]
    if allowed is None or strange:
        raise Unsupported(
            f"architecture {subject.family!r} of {subject.reference} cannot be {done}; "
            f"this works for {', '.join(FAMILIES)}"
            + (f" (it has {strange[0]})" if allowed and strange else "")
        )
    if structure is not None and structure not in allowed:
        raise Unsupported(
            f"architecture {subject.family!r} loads only with {' or '.join(allowed)} cut, not "
            f"{structure}; choose one of these, or one of "
            f"{', '.join(name for name, cuts in FAMILIES.items() if structure in cuts)}"
        )
    config = subject.config
    heads = int(config["num_attention_heads"])
    groups = int(config.get("num_key_value_heads") or heads)
    width = int(config["hidden_size"])
    return Layout(
        layers=int(config["num_hidden_layers"]),
        width=width,
        inner=int(config["intermediate_size"]),
        groups=groups,
        heads=heads // groups,
        head=int(config.get("head_dim") or width // heads),
    )


def known_shapes(config: Mapping[str, Any], layout: Layout) -> dict[str, tuple[int, ...]]:
    """The shape of every array that a model of a family has, by name."""
    sizes = {
        "": layout.head,
        "width": layout.width,
        "inner": layout.inner,
        "queries": layout.groups * layout.heads * layout.head,
        "keys": layout.groups * layout.head,
    }
    own = _NOT_EVERYWHERE.get(str(config["model_type"]), ())
    common = [leaf for leaf in _AXES if leaf.endswith(("proj.weight", "layernorm.weight"))]
    block = {leaf: tuple(sizes[role] for role in _AXES[leaf]) for leaf in (*common, *own)}
    embedding = (int(config["vocab_size"]), layout.width)
    outer = {"model.embed_tokens.weight": embedding, "model.norm.weight": (layout.width,)}
    if not config.get("tie_word_embeddings", True):
        outer["lm_head.weight"] = embedding
    return outer | {
        f"{_PREFIX}{number}.{leaf}": shape
        for number in range(layout.layers)
        for leaf, shape in block.items()
    }


def whole(layout: Layout) -> Cut:
    """The cut that keeps everything."""
    return Cut(
        layers=tuple(range(layout.layers)),
        inner=(tuple(range(layout.inner)),) * layout.layers,
        groups=(tuple(range(layout.groups)),) * layout.layers,
        width=tuple(range(layout.width)),
    )


def cut_weights(weights: Mapping[str, mx.array], layout: Layout, cut: Cut) -> dict[str, mx.array]:
    """Leave out of a model's arrays what a cut does not keep."""
    kept = {}
    for name, array in weights.items():
        layer, leaf = split(name)
        if layer is not None and layer not in cut.layers:
            continue
        place = cut.layers.index(layer) if layer is not None else 0
        for axis, role in enumerate(_axes(leaf)):
            if role:
                array = mx.take(array, mx.array(indices(role, layout, cut, place)), axis=axis)
        kept[name if layer is None else f"{_PREFIX}{place}.{leaf}"] = array
    return kept


def cut_config(config: Mapping[str, Any], layout: Layout, cut: Cut) -> dict[str, Any]:
    """The configuration of a cut model."""
    groups = len(cut.groups[0])
    changed = {
        **config,
        "num_hidden_layers": len(cut.layers),
        "intermediate_size": len(cut.inner[0]),
        "num_key_value_heads": groups,
        "num_attention_heads": groups * layout.heads,
        "hidden_size": len(cut.width),
    }
    if changed["hidden_size"] != config["hidden_size"] or groups != layout.groups:
        changed["head_dim"] = layout.head
    if isinstance(config.get("layer_types"), list):
        changed["layer_types"] = [config["layer_types"][i] for i in cut.layers]
    return changed


def cut_parameters(subject: Subject, layout: Layout, cut: Cut) -> int:
    """How many numbers a cut model has."""
    total = 0
    for name, tensor in subject.tensors.items():
        layer, leaf = split(name)
        if layer is not None and layer not in cut.layers:
            continue
        count = 1
        for side, role in zip(tensor.shape, _axes(leaf), strict=True):
            count *= len(indices(role, layout, cut, 0)) if role else side
        total += count
    return total


def indices(role: str, layout: Layout, cut: Cut, place: int) -> list[int]:
    """Which rows or columns of an axis stay.

    Args:
        role: "width", "inner", "queries" or "keys".
        place: number of the block among those that stay.
    """
    if role == "width":
        return list(cut.width)
    if role == "inner":
        return list(cut.inner[place])
    size = layout.head * (layout.heads if role == "queries" else 1)
    return [group * size + i for group in cut.groups[place] for i in range(size)]


def split(name: str) -> tuple[int | None, str]:
    """A tensor's block, or None, and its name inside the block."""
    if not name.startswith(_PREFIX):
        return None, name
    number, _, leaf = name.removeprefix(_PREFIX).partition(".")
    return int(number), leaf


def units(layout: Layout, structure: str) -> int:
    """How many units of a structure a model has, in a block for ffn and heads."""
    return {
        "layers": layout.layers,
        "ffn": layout.inner,
        "heads": layout.groups,
        "width": layout.width,
    }[structure]


def kept_units(layout: Layout, structure: str, kept: Sequence[Sequence[int]]) -> Cut:
    """A cut of one structure.

    Args:
        kept: indices that stay: one list for layers and width, one for each block otherwise.
    """
    everything = whole(layout)
    chosen = tuple(tuple(sorted(each)) for each in kept)
    if structure == "layers":
        count = len(chosen[0])
        return Cut(chosen[0], everything.inner[:count], everything.groups[:count], everything.width)
    if structure == "width":
        return Cut(everything.layers, everything.inner, everything.groups, chosen[0])
    if structure == "ffn":
        return Cut(everything.layers, chosen, everything.groups, everything.width)
    return Cut(everything.layers, everything.inner, chosen, everything.width)


def first_units(layout: Layout, structure: str, count: int) -> Cut:
    """The cut that keeps the first units: enough to know sizes by."""
    blocks = 1 if structure in ("layers", "width") else layout.layers
    return kept_units(layout, structure, [range(count)] * blocks)


def block_matrices(names: Mapping[str, Any]) -> Iterator[str]:
    """Names of the matrices inside blocks."""
    for name in names:
        layer, leaf = split(name)
        if layer is not None and leaf.endswith("proj.weight"):
            yield name


def _axes(leaf: str) -> tuple[str, ...]:
    return _OUTER.get(leaf) or _AXES[leaf]


def _known(name: str) -> bool:
    layer, leaf = split(name)
    return leaf in (_OUTER if layer is None else _AXES)
