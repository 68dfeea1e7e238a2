from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.compression.export import export
from dspy_toolkit.compression.gguf_file import gguf_name, halves, interleaved, pre_tokenizer
from dspy_toolkit.compression.subject import Unsupported
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from tests.compression.making import packed_model
from tests.engine.tiny import write_model


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
