from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import llama, qwen3

from dspy_toolkit.training.backbone import OwnMask, abilities, hidden_states, project

COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 50,
    "rms_norm_eps": 1e-5,
}


def llama_model(**changes: Any) -> Any:
    mx.random.seed(0)
    return llama.Model(llama.ModelArgs(model_type="llama", **{**COMMON, **changes}))


def qwen_model() -> Any:
    mx.random.seed(0)
    args = {**COMMON, "max_position_embeddings": 64, "rope_theta": 1e4}
    return qwen3.Model(qwen3.ModelArgs(model_type="qwen3", tie_word_embeddings=False, **args))


def windowed_model() -> Any:
    return llama_model(layer_types=["sliding_attention", "full_attention"], sliding_window=4)


MODELS = [llama_model, lambda: llama_model(tie_word_embeddings=False), qwen_model, windowed_model]


@pytest.mark.parametrize("make", MODELS)
def test_projected_hidden_states_are_the_models_own_logits(make: Any) -> None:
    model = make()
    tokens = mx.array([[3, 1, 4, 1, 5]])

    logits = project(model, hidden_states(model, tokens))

    assert mx.allclose(logits, model(tokens), atol=1e-5).item()


@pytest.mark.parametrize("make", MODELS)
def test_a_document_is_read_as_if_it_stood_alone(make: Any) -> None:
    model = make()
    first, second = [3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8]

    packed = hidden_states(model, mx.array([first + second]), mx.array([[1] * 7 + [2] * 5]))

    assert mx.allclose(packed[:, :7], hidden_states(model, mx.array([first])), atol=1e-5).item()
    assert mx.allclose(packed[:, 7:], hidden_states(model, mx.array([second])), atol=1e-5).item()


def test_without_causality_a_token_sees_what_comes_after_it() -> None:
    model = llama_model()
    one = mx.ones((1, 4), mx.int32)
    left, right = mx.array([[1, 2, 3, 4]]), mx.array([[1, 2, 3, 5]])

    causal = [hidden_states(model, tokens, one)[0, 0] for tokens in (left, right)]
    both = [hidden_states(model, tokens, one, causal=False)[0, 0] for tokens in (left, right)]

    assert mx.array_equal(causal[0], causal[1]).item()
    assert not mx.allclose(both[0], both[1], atol=1e-4).item()


def test_a_window_narrows_the_mask() -> None:
    mask = OwnMask(mx.ones((1, 4), mx.int32)).make_mask(4, window_size=2)

    assert mask[0, 0].astype(mx.int32).tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]


class Scaled(llama.Model):  # type: ignore[misc]
    """A model that does more than project."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs) * 0.5


class Unmasked(llama.LlamaModel):  # type: ignore[misc]
    """A stack that passes no cache on."""

    def __call__(self, inputs: mx.array, cache: Any = None, embeddings: Any = None) -> Any:
        return super().__call__(inputs)


def test_abilities_are_found_by_trying() -> None:
    args = llama.ModelArgs(model_type="llama", **COMMON)
    unmasked = llama.Model(args)
    unmasked.model = Unmasked(args)

    assert vars(abilities(llama.Model(args), 50)) == {"splits": True, "masks": True}
    assert vars(abilities(Scaled(args), 50)) == {"splits": False, "masks": False}
    assert vars(abilities(unmasked, 50)) == {"splits": True, "masks": False}
