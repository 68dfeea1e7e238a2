"""Tiny real models for tests: a random llama of fixed seed with a byte-level BPE tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WIDTH, LAYERS, HEADS, CONTEXT = 64, 2, 4, 512
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = [
    "You answer questions about tickets, orders and policies in a few short words.",
    "The customer writes that the order has not arrived; the team is atlas, urgency low.",
    "[[ ## ticket ## ]] [[ ## team ## ]] [[ ## urgency ## ]] [[ ## completed ## ]]",
    "Grüße, naïve café, 東京, emoji 🙂, numbers 0 1 2 3 4 5 6 7 8 9, and punctuation.,;:!?()[]{}",
]


def write_tokenizer(
    folder: Path,
    template: str | None = CHATML,
    vocabulary: int = 400,
    text: Sequence[str] = _TEXT,
) -> int:
    """Train and write a tokenizer; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(tokenizer.get_vocab_size())


def write_sliding_model(folder: Path) -> Path:
    """Write a model one of whose layers looks back no further than 32 tokens."""
    return write_model(
        folder, more={"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 32}
    )


def write_architecture(
    folder: Path,
    name: str,
    sizes: dict[str, Any] | None = None,
    template: str | None = CHATML,
) -> Path:
    """Write a model of another architecture than llama, one of `ARCHITECTURES` if no configuration
    is given, in float32."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.utils import _get_classes

    folder.mkdir(parents=True, exist_ok=True)
    chosen = ARCHITECTURES[name] if sizes is None else sizes
    config = {**chosen, "vocab_size": write_tokenizer(folder, template)}
    model_class, arguments = _get_classes(config)
    model = model_class(arguments.from_dict(config))
    key = iter(mx.random.split(mx.random.key(7), 256))
    model.update(
        tree_map(
            lambda p: p if p.ndim == 1 else 0.25 * mx.random.normal(p.shape, key=next(key)),
            model.parameters(),
        )
    )
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


ARCHITECTURES: dict[str, dict[str, Any]] = {
    # State spaces alone.
    "mamba": {
        "model_type": "mamba",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "state_size": 8,
        "num_hidden_layers": LAYERS,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
        "max_position_embeddings": CONTEXT,
    },
    # Convolutions and attention by turns.
    "lfm2": {
        "model_type": "lfm2",
        "hidden_size": WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": WIDTH,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "intermediate_size": 2 * WIDTH,
        "full_attn_idxs": [1],
    },
    # Linear attention in three layers of four, and experts.
    "qwen3_next": {
        "model_type": "qwen3_next",
        "hidden_size": WIDTH,
        "num_hidden_layers": 4,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": WIDTH,
        "mlp_only_layers": [],
        "moe_intermediate_size": WIDTH,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
    },
    # A state space beside attention in every layer, and both memories in one.
    "falcon_h1": {
        "model_type": "falcon_h1",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "mamba_d_ssm": 2 * WIDTH,
        "mamba_d_head": 32,
        "mamba_n_heads": 4,
        "mamba_d_state": 16,
        "max_position_embeddings": CONTEXT,
        "rope_theta": 10000.0,
    },
    # Sliding windows in five layers of six.
    "gemma3": {
        "model_type": "gemma3_text",
        "hidden_size": WIDTH,
        "num_hidden_layers": 6,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "sliding_window": 32,
        "sliding_window_pattern": 6,
        "max_position_embeddings": CONTEXT,
    },
}


def write_model(
    folder: Path,
    template: str | None = CHATML,
    bits: int | None = None,
    more: dict[str, Any] | None = None,
    text: Sequence[str] = _TEXT,
) -> Path:
    """Write a whole model folder, quantized if `bits` is given.

    `more` goes into its config. `text` is what its tokenizer is made for, of which it then has
    more tokens.
    """
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.models.llama import Model, ModelArgs

    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder, template, 400 if text is _TEXT else 1200, text)
    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": size,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
        **(more or {}),
    }
    model = Model(ModelArgs.from_dict(config))
    key = iter(mx.random.split(mx.random.key(7), 64))
    # Wide weights, so that what comes next depends on what was read.
    model.update(
        tree_map(
            lambda p: p if p.ndim == 1 else 0.25 * mx.random.normal(p.shape, key=next(key)),
            model.parameters(),
        )
    )
    model.set_dtype(mx.bfloat16)
    if bits is not None:
        nn.quantize(model, group_size=32, bits=bits)
        config["quantization"] = {"group_size": 32, "bits": bits}
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        dict(tree_flatten(model.parameters())),
        metadata={"format": "mlx"},
    )
    (folder / "config.json").write_text(json.dumps(config))
    return folder
