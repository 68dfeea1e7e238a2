from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.compression import llama_cpp
from dspy_toolkit.compression.export import export
from dspy_toolkit.compression.gguf_file import gguf_name, halves, interleaved, pre_tokenizer
from dspy_toolkit.compression.subject import Unsupported
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, InvalidInput
from tests.compression.making import packed_model
from tests.engine.tiny import CHATML, write_architecture, write_model

LLAMA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {**LLAMA, "model_type": "mistral"},
    "qwen2": {**LLAMA, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {**LLAMA, "model_type": "qwen3", "head_dim": 32},
}
WITH_BEGINNING = "{{ bos_token }}" + CHATML


def begin_texts(folder: Path) -> None:
    """Have a tokenizer begin every text with a token of its own, as llama 3's does."""
    from tokenizers import Tokenizer, processors

    file = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.save(file)
    settings = folder / "tokenizer_config.json"
    told = {**json.loads(settings.read_text()), "bos_token": "<|endoftext|>"}
    settings.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("target", "kind"),
    [("onnx", "f16"), ("gguf", "f32"), ("gguf", "f16"), ("safetensors", "f16")],
)
def test_an_export_answers_as_the_original(
    target: str, kind: str, model: Path, settings: Settings, tmp_path: Path
) -> None:
    made = export(str(model), target, tmp_path / "out", settings, kind)

    assert made.same_answers == made.of == 4
    assert (Path(made.folder) / made.file).stat().st_size == made.size_bytes


def test_packed_gguf_weights_answer_nearly_so(
    model: Path, settings: Settings, tmp_path: Path
) -> None:
    whole = export(str(model), "gguf", tmp_path / "whole", settings, "f32")
    packed = export(str(model), "gguf", tmp_path / "packed", settings, "q8_0")

    assert whole.largest_error < packed.largest_error < 0.05
    assert packed.size_bytes < 0.6 * whole.size_bytes


def test_a_packed_model_is_expanded(settings: Settings, tmp_path: Path) -> None:
    folder = packed_model(tmp_path)

    made = export(str(folder), "onnx", tmp_path / "out", settings)

    assert made.same_answers == made.of


@pytest.mark.parametrize(
    ("family", "template"), [("mistral", None), ("qwen2", CHATML), ("qwen3", WITH_BEGINNING)]
)
def test_llama_cpp_answers_as_the_original(
    family: str, template: str | None, settings: Settings, tmp_path: Path
) -> None:
    pytest.importorskip(llama_cpp.PACKAGE)
    folder = write_architecture(tmp_path / family, family, FAMILIES[family], template)
    begin_texts(folder)

    made = export(str(folder), "gguf", tmp_path / "out", settings, "f32")

    assert made.checked_with == llama_cpp.version()
    assert made.not_checked is None
    assert made.same_answers == made.of == 4
    assert made.largest_error < 1e-4


def test_a_file_that_divides_texts_otherwise_is_refused_and_not_kept(
    settings: Settings, tmp_path: Path
) -> None:
    pytest.importorskip(llama_cpp.PACKAGE)
    folder = write_model(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    whole_words = {"type": "WhitespaceSplit"}
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [whole_words, tokenizer["pre_tokenizer"]],
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))

    with pytest.raises(IntegrityError, match=r"llama\.cpp divides the text"):
        export(str(folder), "gguf", tmp_path / "out", settings)

    assert not (tmp_path / "out").exists()


def test_llama_cpp_tells_a_damaged_file(model: Path, settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip(llama_cpp.PACKAGE)
    made = export(str(model), "gguf", tmp_path / "out", settings)
    whole = (Path(made.folder) / made.file).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(IntegrityError, match=r"does not load cut\.gguf"):
        llama_cpp.LlamaCpp(tmp_path / "cut.gguf")


def test_an_export_of_which_llama_cpp_tells_nothing_is_not_kept(
    model: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(llama_cpp.PACKAGE)
    ask = llama_cpp.LlamaCpp._ask

    def silent(self: llama_cpp.LlamaCpp, path: str, body: dict[str, Any]) -> Any:
        told = ask(self, path, body)
        return {**told, "tokens": []} if path == "completion" else told

    monkeypatch.setattr(llama_cpp.LlamaCpp, "_ask", silent)
    with pytest.raises(IntegrityError, match="tells no probabilities"):
        export(str(model), "gguf", tmp_path / "out", settings)

    assert not (tmp_path / "out").exists()


def test_an_empty_continuation_is_not_the_same_answer(
    model: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(llama_cpp.PACKAGE)
    read = llama_cpp.LlamaCpp.read

    def cut(self: llama_cpp.LlamaCpp, tokens: Sequence[int], new: int) -> llama_cpp.Reading:
        return replace(read(self, tokens, new), tokens=[])

    monkeypatch.setattr(llama_cpp.LlamaCpp, "read", cut)

    assert export(str(model), "gguf", tmp_path / "out", settings).same_answers == 0


def test_a_reading_replaces_the_likeliest_logits_by_hand() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.25])) + 3.0

    replaced = llama_cpp.Reading([1], {1: math.log(0.75)}).into(logits)

    assert np.allclose(np.exp(replaced - 3.0), [0.5, 0.75, 0.25])


def test_llama_cpp_finds_what_it_needs(model: Path, settings: Settings, tmp_path: Path) -> None:
    from gguf import GGUFReader

    made = export(str(model), "gguf", tmp_path / "out", settings, "f16")
    reader = GGUFReader(str(Path(made.folder) / made.file))
    fields = reader.fields

    def value(name: str) -> Any:
        return fields[name].contents()

    assert value("general.architecture") == "llama"
    assert value("llama.attention.head_count") == 4
    assert value("llama.attention.head_count_kv") == 2
    assert value("llama.attention.key_length") == 16
    assert value("tokenizer.ggml.model") == "gpt2"
    assert len(value("tokenizer.ggml.tokens")) == reader.tensors[0].shape[-1]
    assert {t.name for t in reader.tensors} >= {"token_embd.weight", "blk.1.ffn_down.weight"}


def test_queries_are_interleaved_by_hand() -> None:
    rows = np.array([[0.0], [1.0], [2.0], [3.0]])

    assert interleaved(rows, 1).ravel().tolist() == [0, 2, 1, 3]
    assert interleaved(rows, 2).ravel().tolist() == [0, 1, 2, 3]


@given(st.integers(1, 3), st.integers(1, 4))
def test_interleaving_can_be_undone(heads: int, half: int) -> None:
    rows = np.arange(heads * half * 2 * 3, dtype=np.float32).reshape(-1, 3)

    assert np.array_equal(halves(interleaved(rows, heads), heads), rows)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.12.self_attn.o_proj.weight", "blk.12.attn_output.weight"),
        ("model.layers.0.self_attn.q_proj.bias", "blk.0.attn_q.bias"),
        ("model.layers.3.post_attention_layernorm.weight", "blk.3.ffn_norm.weight"),
    ],
)
def test_names_are_those_of_llama_cpp(ours: str, theirs: str) -> None:
    assert gguf_name(ours) == theirs


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"type": "ByteLevel"}, "gpt-2"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel"},
                ],
            },
            "smollm",
        ),
        ({"type": "Whitespace"}, "default"),
    ],
)
def test_texts_are_divided_as_the_tokenizer_does(told: dict[str, Any], name: str) -> None:
    assert pre_tokenizer(told) == name


def test_an_unknown_target_is_told(model: Path, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="did you mean 'onnx'"):
        export(str(model), "onxx", tmp_path / "out", settings)


def test_another_architecture_is_refused_and_leaves_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    scaled = write_model(
        tmp_path / "scaled", more={"rope_scaling": {"type": "linear", "factor": 2.0}}
    )

    with pytest.raises(Unsupported, match="rope_scaling"):
        export(str(scaled), "onnx", tmp_path / "out", settings)

    assert not (tmp_path / "out").exists()
