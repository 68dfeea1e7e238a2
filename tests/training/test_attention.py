from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.models.cache import KVCache

from dspy_toolkit.training.attention import in_blocks
from dspy_toolkit.training.backbone import hidden_states
from tests.training.test_backbone import llama_model, qwen_model, windowed_model

LENGTHS = [1, 64, 65, 150]


def states_and_gradient(model: Any, length: int, documents: bool) -> tuple[mx.array, mx.array]:
    tokens = mx.arange(2 * length).reshape(2, length) * 7 % 50
    numbers = mx.arange(length)[None] // 40 + mx.array([[0], [1]])

    def loss(weights: Any) -> mx.array:
        model.update(weights)
        return (hidden_states(model, tokens, numbers if documents else None) ** 3).sum()

    value, gradient = mx.value_and_grad(loss)(model.trainable_parameters())
    flat = [each.reshape(-1) for _, each in tree_flatten(gradient)]
    return value, mx.concatenate(flat)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("make", [llama_model, qwen_model, windowed_model])
def test_blocks_change_neither_result_nor_gradient(make: Any, length: int, documents: bool) -> None:
    model = make()

    value, gradient = states_and_gradient(model, length, documents)
    with in_blocks(model):
        in_parts, gradient_in_parts = states_and_gradient(model, length, documents)

    assert mx.allclose(value, in_parts, rtol=1e-4).item()
    assert mx.allclose(gradient, gradient_in_parts, rtol=1e-3, atol=1e-2).item()


def test_calls_with_a_cache_are_left_alone() -> None:
    model = llama_model()
    tokens = mx.arange(100)[None] % 50
    caches = [[KVCache() for _ in model.layers] for _ in range(2)]

    model(tokens, caches[0])
    plain = model(tokens, caches[0])
    with in_blocks(model):
        model(tokens, caches[1])
        inside = model(tokens, caches[1])

    assert mx.array_equal(plain, inside).item()


def test_the_original_is_back_when_the_last_user_is_done() -> None:
    model, original = llama_model(), llama.scaled_dot_product_attention

    with in_blocks(model):
        with in_blocks(llama_model()):
            replaced = llama.scaled_dot_product_attention
        still = llama.scaled_dot_product_attention

    assert replaced is still is not original
    assert llama.scaled_dot_product_attention is original
