"""How much each weight matters: the scores pruning goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from dspy_toolkit.compression.activations import InputNorms, input_norms
from dspy_toolkit.compression.layout import Layout, block_matrices, split
from dspy_toolkit.training.backbone import abilities
from dspy_toolkit.training.batches import in_turn
from dspy_toolkit.training.language_loss import plain_loss
from dspy_toolkit.training.packing import Row

METHODS = ("magnitude", "gradient", "activation", "wanda")
Scores = Mapping[str, mx.array]
"""By name of a matrix: (rows, columns), at least 0, larger for weights that matter more."""

_ROWS_AT_ONCE = 4


def magnitude(weight: mx.array) -> mx.array:
    """The absolute value of each weight.

    Source:
        Han et al., "Learning both Weights and Connections", arXiv:1506.02626.
    """
    return mx.abs(weight)


def gradient(weight: mx.array, slope: mx.array) -> mx.array:
    """How much the loss changes if a weight becomes 0, to first order: |weight * slope|.

    Source:
        Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv:1906.10771.
    """
    return mx.abs(weight * slope)


def wanda(weight: mx.array, mean_square: mx.array) -> mx.array:
    """Each weight's size times the size of the input it is multiplied with.

    Args:
        weight: (rows, columns).
        mean_square: (columns,), mean square of each input.

    Source:
        Sun et al., "A Simple and Effective Pruning Approach for LLMs", arXiv:2306.11695.
    """
    return mx.abs(weight) * mx.sqrt(mean_square)


def block_influence(before: mx.array, after: mx.array) -> float:
    """How much a block turns the residual stream: 1 - cos(before, after), over tokens.

    Args:
        before, after: (tokens, width).

    Source:
        Men et al., "ShortGPT", arXiv:2403.03853.
    """
    dot = (before * after).sum(axis=-1)
    norms = mx.linalg.norm(before, axis=-1) * mx.linalg.norm(after, axis=-1)
    value: Any = (1 - dot / mx.maximum(norms, 1e-9)).mean().item()
    return float(value)


def weight_scores(
    method: str, model: Any, windows: mx.array, rows: Sequence[Row], vocabulary: int
) -> dict[str, mx.array]:
    """Score the matrices of all blocks, and the embedding, weight by weight.

    Args:
        method: "magnitude", "gradient" or "wanda".
        windows: (windows, length) int32, read for wanda.
        rows: examples, whose answers' loss gives gradients.
    """
    weights = dict(tree_flatten(model.parameters()))
    names = [*block_matrices(weights), "model.embed_tokens.weight"]
    if method == "gradient":
        slopes = gradients(model, rows, vocabulary)
        return {name: gradient(weights[name], slopes[name]) for name in names}
    if method == "wanda":
        squared = input_norms(model, windows).squared
        return {
            name: wanda(weights[name], squared[path])
            if (path := name.removesuffix(".weight")) in squared
            else magnitude(weights[name])
            for name in names
        }
    return {name: magnitude(weights[name]) for name in names}


def gradients(model: Any, rows: Sequence[Row], vocabulary: int) -> dict[str, mx.array]:
    """Mean gradient of the answers' cross-entropy over some rows, by name."""
    model.unfreeze()
    loss = plain_loss(abilities(model, vocabulary))
    slope = nn.value_and_grad(model, loss)
    total: dict[str, mx.array] = {}
    weight = 0.0
    for batch in in_turn(rows, _ROWS_AT_ONCE, document_mask=False):
        (_, share), tree = slope(model, dict(batch.parts[0]))
        flat = dict(tree_flatten(tree))
        total = {name: flat[name] + total.get(name, mx.array(0.0)) for name in flat}
        mx.eval(total, share)
        weight += float(share.item())
    return {name: each / weight for name, each in total.items()}


def unit_scores(structure: str, scores: Scores, layout: Layout) -> list[mx.array]:
    """Scores of whole units: the sum over a unit's weights.

    Args:
        structure: "layers", "ffn", "heads" or "width".
        scores: of single weights.

    Returns:
        One array (units,) for layers and width, one for each block for ffn and heads. A unit of
        heads is a group: its queries, keys, values, and columns of the output.
    """
    if structure == "layers":
        sums = [mx.array(0.0)] * layout.layers
        for name in block_matrices(scores):
            layer, _ = split(name)
            assert layer is not None
            sums[layer] = sums[layer] + scores[name].sum()
        return [mx.stack(sums)]
    if structure == "width":
        total = scores["model.embed_tokens.weight"].sum(axis=0)
        for name in block_matrices(scores):
            over = 1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0
            total = total + scores[name].sum(axis=over)
        return [total]
    return [_in_block(structure, scores, layout, block) for block in range(layout.layers)]


def activity_scores(
    structure: str, model: Any, windows: mx.array, layout: Layout
) -> list[mx.array]:
    """Scores of whole units by what flows through them; shaped as those of `unit_scores`.

    The mean absolute activation for ffn, heads and width (Muralidharan et al., "Compact Language
    Models via Pruning and Knowledge Distillation", arXiv:2407.14679); block influence for layers.
    """
    if structure == "layers":
        return [mx.array(_influences(model, windows))]
    norms: InputNorms = input_norms(model, windows)

    def size(block: int, leaf: str) -> mx.array:
        return norms.absolute[f"model.layers.{block}.{leaf}"]

    blocks = range(layout.layers)
    if structure == "ffn":
        return [size(block, "mlp.down_proj") for block in blocks]
    if structure == "heads":
        shape = (layout.groups, layout.heads * layout.head)
        return [size(b, "self_attn.o_proj").reshape(shape).sum(axis=1) for b in blocks]
    total = mx.zeros(layout.width)
    for block in blocks:
        total = total + size(block, "self_attn.q_proj") + size(block, "mlp.gate_proj")
    return [total]


def _in_block(structure: str, scores: Scores, layout: Layout, block: int) -> mx.array:
    def of(leaf: str) -> mx.array:
        return scores[f"model.layers.{block}.{leaf}.weight"]

    if structure == "ffn":
        rows = of("mlp.gate_proj").sum(axis=1) + of("mlp.up_proj").sum(axis=1)
        return rows + of("mlp.down_proj").sum(axis=0)
    queries = of("self_attn.q_proj").sum(axis=1) + of("self_attn.o_proj").sum(axis=0)
    keys = of("self_attn.k_proj").sum(axis=1) + of("self_attn.v_proj").sum(axis=1)
    return queries.reshape(layout.groups, -1).sum(axis=1) + keys.reshape(layout.groups, -1).sum(
        axis=1
    )


def _influences(model: Any, windows: mx.array) -> list[float]:
    from dspy_toolkit.compression.states import block_states

    totals = [0.0] * len(model.layers)
    count = 0
    for start in range(0, windows.shape[0], _ROWS_AT_ONCE):
        states = block_states(model, windows[start : start + _ROWS_AT_ONCE])
        mx.eval(states)
        flat = [each.reshape(-1, each.shape[-1]) for each in states]
        for i in range(len(totals)):
            totals[i] += block_influence(flat[i], flat[i + 1])
        count += 1
    return [total / count for total in totals]
