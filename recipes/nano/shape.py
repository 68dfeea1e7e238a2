"""The architecture, as mlx-lm's llama, and the weights that the warm-up begins with."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models.llama import Model, ModelArgs

WIDTH, LAYERS, HEADS, INNER = 128, 4, 4, 384
THETA = 10000.0
CONTEXT = 2048


def config(vocabulary: int) -> dict[str, Any]:
    """`config.json` of the model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": WIDTH // HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": THETA,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
    }


def llama(vocabulary: int) -> Any:
    return Model(ModelArgs.from_dict(config(vocabulary)))


def start_structured(model: Any, base: mx.array) -> None:
    """Begin near a copying circuit, which a plain start finds only after a long plateau.

    One head of the first layer looks back exactly one token: its queries and keys read only
    `base` (1, width), the part that all embeddings share. Later layers begin with equal queries
    and keys, and write what they read.
    """
    size = WIDTH // HEADS
    for number, layer in enumerate(model.layers):
        attention, feed = layer.self_attn, layer.mlp
        for part in (attention.q_proj, attention.k_proj, attention.v_proj,
                     feed.gate_proj, feed.up_proj, feed.down_proj):  # fmt: skip
            part.weight = mx.random.normal(part.weight.shape) * WIDTH**-0.5
        attention.o_proj.weight = attention.v_proj.weight.T * 0.5
        feed.down_proj.weight = feed.down_proj.weight * 0.3
        if number:
            attention.k_proj.weight = attention.q_proj.weight
    first = model.layers[0].self_attn
    reader = base / mx.linalg.norm(base)
    ahead = mx.ones((1, 1, 1, size))
    # The rotation is orthogonal: read as a token one place earlier, the query meets the key there.
    back = mx.fast.rope(ahead, size, traditional=False, base=THETA, scale=1.0, offset=-1)
    for part, probe in ((first.q_proj, back), (first.k_proj, ahead)):
        head = probe.reshape(size, 1) @ reader * 0.35
        part.weight = mx.concatenate([head, part.weight[size:]])
