from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.llama import Model, ModelArgs

from dspy_toolkit.compression.build import build, order
from dspy_toolkit.compression.calibration import CalibrationSet
from dspy_toolkit.compression.layout import Cut, Layout, cut_parameters, indices
from dspy_toolkit.compression.prune import cut_model
from dspy_toolkit.compression.sparsity import GradualMask, sparsity
from dspy_toolkit.compression.subject import Subject, Unsupported, look_at
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from tests.engine.tiny import write_model

LAYOUT = Layout(layers=3, width=8, inner=6, groups=2, heads=2, head=4)
CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "intermediate_size": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": 30,
    "tie_word_embeddings": True,
}
TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])


def random_model() -> Any:
    mx.random.seed(5)
    model = Model(ModelArgs.from_dict(CONFIG))
    model.update(
        tree_unflatten(
            [
                (name, mx.random.normal(array.shape) * 0.5)
                for name, array in tree_flatten(model.parameters())
            ]
        )
    )
    return model


def some_of(count: int, least: int = 1) -> st.SearchStrategy[list[int]]:
    return st.sets(st.integers(0, count - 1), min_size=least).map(sorted)


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    """Any layers, and equally many channels and groups in each of them."""
    layers = draw(some_of(LAYOUT.layers))
    inner, groups = draw(st.integers(1, LAYOUT.inner)), draw(st.integers(1, LAYOUT.groups))

    def sized(count: int, of: int) -> tuple[int, ...]:
        return tuple(sorted(draw(st.permutations(range(of)))[:count]))

    return Cut(
        layers=tuple(layers),
        inner=tuple(sized(inner, LAYOUT.inner) for _ in layers),
        groups=tuple(sized(groups, LAYOUT.groups) for _ in layers),
        width=tuple(range(LAYOUT.width)),
    )


def masked(model: Any, cut: Cut) -> Any:
    """What a cut leaves out, set to 0 instead."""
    for layer, block in enumerate(model.layers):
        if layer not in cut.layers:
            block.self_attn.o_proj.weight = mx.zeros_like(block.self_attn.o_proj.weight)
            block.mlp.down_proj.weight = mx.zeros_like(block.mlp.down_proj.weight)
            continue
        place = cut.layers.index(layer)
        for linear, role in ((block.mlp.down_proj, "inner"), (block.self_attn.o_proj, "queries")):
            columns = mx.arange(linear.weight.shape[1])
            kept = mx.array(indices(role, LAYOUT, cut, place))
            stays = (columns[:, None] == kept).any(axis=1)
            linear.weight = mx.where(stays, linear.weight, 0)
    return model


@effort(max_examples=25)
@given(cuts())
def test_cutting_gives_the_logits_of_masking(cut: Cut) -> None:
    model = random_model()

    smaller, _ = cut_model(model, CONFIG, LAYOUT, cut)

    assert mx.allclose(smaller(TOKENS), masked(model, cut)(TOKENS), atol=1e-4)


@effort(max_examples=25)
@given(cuts())
def test_the_foreseen_number_of_parameters_is_right(cut: Cut) -> None:
    from dspy_toolkit.compression.subject import Tensor

    model = random_model()
    tensors = {
        name: Tensor("F32", tuple(array.shape)) for name, array in tree_flatten(model.parameters())
    }
    subject = Subject("m", "m", Path(), CONFIG, "", tensors, 0)
    smaller, _ = cut_model(model, CONFIG, LAYOUT, cut)

    counted = sum(array.size for _, array in tree_flatten(smaller.parameters()))

    assert cut_parameters(subject, LAYOUT, cut) == counted


@pytest.mark.parametrize("structure", ["layers", "ffn", "heads", "width"])
@pytest.mark.parametrize("method", ["magnitude", "gradient", "activation", "wanda"])
def test_every_method_cuts_every_structure(
    method: str, structure: str, model: Path, data: CalibrationSet, settings: Settings
) -> None:
    options = {"method": method, "structure": structure, "target": 0.1, "length": 16}

    built = build(order(str(model), "prune", options, data, settings), settings)

    assert built.measures["removed"] >= 0.1


def test_single_weights_go_to_the_share_asked_for_while_the_model_learns(
    model: Path, data: CalibrationSet, settings: Settings
) -> None:
    options = {
        "structure": "unstructured",
        "target": 0.8,
        "heal": True,
        "hidden": 1.0,
        "steps": 8,
        "batch": 2,
        "length": 16,
    }

    built = build(order(str(model), "prune", options, data, settings), settings)

    assert built.measures["sparsity"] >= 0.8


def test_a_resumed_mask_goes_on_from_the_zeros_it_finds() -> None:
    model = random_model()
    begun = GradualMask(model, "magnitude", 0.6, 20, mx.zeros((0, 0)))
    for step in range(1, 11):
        begun(step)
    half = sparsity(model)
    resumed = GradualMask(model, "magnitude", 0.6, 20, mx.zeros((0, 0)))
    for step in range(11, 21):
        resumed(step)

    assert 0 < half < sparsity(model) == pytest.approx(0.6, abs=0.02)


def test_a_target_beyond_a_structure_says_how_much_it_holds(
    model: Path, data: CalibrationSet, settings: Settings
) -> None:
    with pytest.raises(InvalidInput, match=r"removes at most .* choose another --structure"):
        order(str(model), "prune", {"structure": "heads", "target": 0.9}, data, settings)


def test_activation_scores_no_single_weights(
    model: Path, data: CalibrationSet, settings: Settings
) -> None:
    options = {"method": "activation", "structure": "unstructured"}
    with pytest.raises(Unsupported, match="choose method wanda"):
        order(str(model), "prune", options, data, settings)


def test_an_architecture_that_cannot_be_cut_names_those_that_can(
    tmp_path: Path, settings: Settings
) -> None:
    from dspy_toolkit.compression.layout import layout_of

    folder = write_model(tmp_path / "other", more={"model_type": "olmo"})

    with pytest.raises(Unsupported, match="llama, mistral, qwen3, qwen2"):
        layout_of(look_at(str(folder), settings))
