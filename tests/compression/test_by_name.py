"""Rounding by the names of arrays gives what mlx-lm gives by its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dspy_toolkit.compression.build import build, order
from dspy_toolkit.compression.by_name import is_stack
from dspy_toolkit.compression.opened import silent
from dspy_toolkit.compression.subject import look_at
from dspy_toolkit.config import Settings
from tests.engine.tiny import CONTEXT, WIDTH, write_architecture

SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": CONTEXT,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def written(folder: Path, family: str, **more: Any) -> Path:
    return write_architecture(folder, family, {**SIZES, "model_type": family, **more})


@pytest.mark.parametrize(
    ("family", "more", "packed"),
    [
        ("llama", {"head_dim": 32}, {"bits": 3, "group": 32}),
        ("llama", {"tie_word_embeddings": False}, {"mode": "mxfp4"}),
        ("qwen2", {}, {"mode": "nvfp4"}),
        ("qwen3", {"head_dim": 16}, {"bits": 8, "group": 64}),
    ],
)
def test_rounding_by_name_is_that_of_mlx_lm(
    family: str, more: dict[str, Any], packed: dict[str, Any], tmp_path: Path
) -> None:
    from mlx_lm import convert

    model = written(tmp_path / "model", family, **more)
    settings = Settings(home=tmp_path)
    with silent():
        convert(
            str(model), str(tmp_path / "theirs"), quantize=True, dtype="float32",
            q_mode=packed.get("mode", "affine"),
            q_bits=packed.get("bits"), q_group_size=packed.get("group"),
        )  # fmt: skip

    ours = build(order(str(model), "rtn", packed, None, settings), settings)

    assert is_stack(look_at(str(model), settings))
    theirs: Any = mx.load(str(tmp_path / "theirs" / "model.safetensors"))
    found: Any = mx.load(str(ours.folder / "model.safetensors"))
    assert found.keys() == theirs.keys()
    assert all(mx.array_equal(found[name], theirs[name]) for name in found)
    configs = [
        json.loads((folder / "config.json").read_text())["quantization"]
        for folder in (ours.folder, tmp_path / "theirs")
    ]
    assert configs[0] == configs[1]


def test_arrays_are_only_packed_by_name_where_they_are_those_of_the_configuration(
    tmp_path: Path,
) -> None:
    model = written(tmp_path / "model", "llama")
    settings = Settings(home=tmp_path)
    arrays: Any = mx.load(str(model / "model.safetensors"))

    def stack(changed: dict[str, mx.array]) -> bool:
        mx.save_safetensors(str(model / "model.safetensors"), changed)
        return is_stack(look_at(str(model), settings))

    up = "model.layers.1.mlp.up_proj.weight"
    assert stack(arrays)
    assert not stack({name: array for name, array in arrays.items() if name != up})
    assert not stack({**arrays, up: mx.zeros((2 * WIDTH, WIDTH // 2))})
    assert not stack({**arrays, "model.layers.1.mlp.extra.weight": arrays[up]})
    assert not stack({**arrays, up: mx.zeros((2 * WIDTH, WIDTH), mx.uint8)})
