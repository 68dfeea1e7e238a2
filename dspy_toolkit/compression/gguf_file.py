"""A llama-like model as a GGUF file, and reading one back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dspy_toolkit.compression.plain import PlainModel, probes
from dspy_toolkit.compression.subject import Unsupported

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
TYPES = ("f32", "f16", "q8_0")
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_NORMAL, _CONTROL, _USER = 1, 3, 4


def gguf_name(name: str) -> str:
    """A tensor's name in GGUF."""
    if name in _OUTER:
        return _OUTER[name]
    _, _, block, rest = name.split(".", 3)
    path, _, leaf = rest.rpartition(".")
    return f"blk.{block}.{_NAMES[path]}.{leaf}"


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in the order llama.cpp's llama rotates them: pairs side by side."""
    size = array.shape[0] // heads
    parts = array.reshape(heads, 2, size // 2, *array.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(1, 2)).reshape(array.shape)


def halves(array: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of `interleaved`."""
    size = array.shape[0] // heads
    parts = array.reshape(heads, size // 2, 2, *array.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(1, 2)).reshape(array.shape)


def write_gguf(plain: PlainModel, file: Path, kind: str) -> None:
    """Write a model.

    Args:
        kind: type of its matrices, one of `TYPES`; norms and biases stay float32.

    Raises:
        Unsupported: its tokenizer is no byte-level BPE, or its positions are scaled.
    """
    import gguf

    writer = gguf.GGUFWriter(str(file), ARCHITECTURES[plain.subject.family])
    _write_sizes(writer, plain)
    _write_tokenizer(writer, plain)
    types = gguf.GGMLQuantizationType
    chosen = {"f32": types.F32, "f16": types.F16, "q8_0": types.Q8_0}[kind]
    for name, array in plain.weights.items():
        turned = _turned(plain, name, array)
        small = array.ndim == 1 or (kind == "q8_0" and array.shape[-1] % 32)
        held = types.F32 if small else chosen
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(turned, held), raw_dtype=held)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(file: Path, plain: PlainModel) -> dict[str, np.ndarray]:
    """Read a model's weights back, in float32 under the names and in the order it has them."""
    import gguf

    reader = gguf.GGUFReader(str(file))
    stored = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for tensor in reader.tensors
    }
    found = {}
    for name, array in plain.weights.items():
        back = stored[gguf_name(name)].reshape(array.shape)
        heads = _rotating_heads(plain, name)
        found[name] = halves(back, heads) if heads else back
    return found


def _turned(plain: PlainModel, name: str, array: np.ndarray) -> np.ndarray:
    heads = _rotating_heads(plain, name)
    return interleaved(array, heads) if heads else array


def _rotating_heads(plain: PlainModel, name: str) -> int:
    if ARCHITECTURES[plain.subject.family] != "llama":
        return 0
    layout = plain.layout
    if ".q_proj." in name:
        return layout.groups * layout.heads
    return layout.groups if ".k_proj." in name else 0


def _write_sizes(writer: Any, plain: PlainModel) -> None:
    config, layout = plain.config, plain.layout
    writer.add_name(plain.subject.name)
    writer.add_context_length(int(config.get("max_position_embeddings") or 2048))
    writer.add_embedding_length(layout.width)
    writer.add_block_count(layout.layers)
    writer.add_feed_forward_length(layout.inner)
    writer.add_head_count(layout.groups * layout.heads)
    writer.add_head_count_kv(layout.groups)
    writer.add_key_length(layout.head)
    writer.add_value_length(layout.head)
    writer.add_rope_dimension_count(layout.head)
    writer.add_rope_freq_base(float(config.get("rope_theta") or 10000.0))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(plain.weights["model.embed_tokens.weight"].shape[0])


def _write_tokenizer(writer: Any, plain: PlainModel) -> None:
    wrapper = plain.opened.tokenizer
    # As loaded, not as written: some classes have rules of their own.
    backend = getattr(wrapper, "backend_tokenizer", None)
    told = json.loads(backend.to_str()) if backend is not None else {}
    model = told.get("model") or {}
    if model.get("type") != "BPE" or (told.get("decoder") or {}).get("type") != "ByteLevel":
        raise Unsupported(
            f"the tokenizer of {plain.subject.reference} is no byte-level BPE, the one kind that "
            "is written to GGUF; use llama.cpp's own convert_hf_to_gguf.py, or --to onnx"
        )
    rows = plain.weights["model.embed_tokens.weight"].shape[0]
    tokens = [f"[UNUSED_{i}]" for i in range(rows)]
    kinds = [_NORMAL] * rows
    for text, number in model["vocab"].items():
        tokens[number] = text
    for added in told.get("added_tokens") or []:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = _CONTROL if added["special"] else _USER
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(told.get("pre_tokenizer") or {}))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(int(wrapper.eos_token_id))
    if wrapper.bos_token_id is not None:
        writer.add_bos_token_id(int(wrapper.bos_token_id))
    if wrapper.pad_token_id is not None:
        writer.add_pad_token_id(int(wrapper.pad_token_id))
    # What a chat begins with counts where a tokenizer would begin other texts otherwise.
    begun = [wrapper.encode("a"), *(probe.tokens for probe in probes(plain))]
    writer.add_add_bos_token(all(tokens[0] == wrapper.bos_token_id for tokens in begun))
    if isinstance(wrapper.chat_template, str):
        writer.add_chat_template(wrapper.chat_template)


def pre_tokenizer(told: dict[str, Any]) -> str:
    """llama.cpp's name for how a text is divided before merging.

    Source:
        llama.cpp, `llama-vocab.cpp`: the regular expressions of each name.
    """
    parts = told.get("pretokenizers") or [told]
    kinds = [part.get("type") for part in parts]
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    pattern = str(parts[0].get("pattern", ""))
    if r"\\p{N}{1,3}" in pattern:
        return "llama-bpe"
    return "qwen2" if r"\\p{N}" in pattern else "default"
