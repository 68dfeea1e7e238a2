from __future__ import annotations

import ctypes
import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.training.backbone import Abilities
from dspy_toolkit.training.batches import Batch, rows_arrays, rows_batch, shared_out
from dspy_toolkit.training.cores import one_blas_thread, usable_cores
from dspy_toolkit.training.encode import Encoded
from dspy_toolkit.training.gradients import ManyThreads, OneThread, twin
from dspy_toolkit.training.language_loss import answer_logits, answer_loss
from dspy_toolkit.training.optimizers import make_optimizer
from dspy_toolkit.training.packing import Row, one_each, pack
from dspy_toolkit.training.recipe import LossRecipe, OptimizerRecipe
from dspy_toolkit.training.stepping import Stepper, finite, mean_loss

ABLE = Abilities(splits=True, masks=True)
UNABLE = Abilities(splits=False, masks=False)
THREADS = ("MKL_Get_Max_Threads", "openblas_get_num_threads")


def tiny_model() -> Any:
    mx.random.seed(0)
    return llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=32,
            num_hidden_layers=2,
            intermediate_size=48,
            num_attention_heads=2,
            vocab_size=40,
            rms_norm_eps=1e-5,
        )
    )


def examples(count: int) -> list[Encoded]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        length = int(rng.integers(5, 20))
        tokens = rng.integers(0, 40, length).astype("int32")
        weights = (rng.random(length) < 0.4).astype("float32")
        weights[-1] = 0.5
        made.append(Encoded(tokens, weights, f"data:{i}"))
    return made


ROWS = one_each(examples(8))
LOSS = answer_loss(LossRecipe(), ABLE)


def stepper(model: Any, clip_norm: float | None = None, compiled: bool = False) -> Stepper:
    optimizer = make_optimizer(OptimizerRecipe(name="sgd"))
    gradients = OneThread(model, LOSS, compiled)
    return Stepper(model, optimizer, gradients, clip_norm, compiled)


def weights(model: Any) -> mx.array:
    return mx.concatenate([each.reshape(-1) for _, each in tree_flatten(model.parameters())])


def batches(size: int) -> list[Batch]:
    return [rows_batch(ROWS[i : i + size], False) for i in range(0, len(ROWS), size)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_make_the_step_of_one_large_batch(size: int) -> None:
    whole, split = tiny_model(), tiny_model()

    one = stepper(whole, clip_norm=0.5).step(batches(8), 0.1)
    many = stepper(split, clip_norm=0.5).step(batches(size), 0.1)

    assert many.loss == pytest.approx(one.loss, rel=1e-5)
    assert many.norm == pytest.approx(one.norm, rel=1e-4)
    assert mx.allclose(weights(whole), weights(split), atol=1e-6).item()


def test_packed_rows_have_the_loss_of_the_examples_alone() -> None:
    model = tiny_model()
    packed = rows_batch(pack(examples(8), 48), True)

    assert mean_loss(model, LOSS, [packed]) == pytest.approx(
        mean_loss(model, LOSS, batches(3)), rel=1e-5
    )


def test_logits_at_answers_are_those_of_the_whole_model() -> None:
    model, batch = tiny_model(), batches(8)[0].parts[0]

    part, whole = answer_logits(model, batch, ABLE), answer_logits(model, batch, UNABLE)

    assert mx.allclose(part, whole, atol=1e-5).item()


def test_targets_are_the_tokens_after_the_places_with_their_weights() -> None:
    row = Row(
        tokens=np.array([1, 2, 3, 4, 5], np.int32),
        goals=np.array([0, 0, 1, 0, 0.5], np.float32),
        documents=np.ones(5, np.int32),
        places=("data:1",),
    )

    arrays = rows_arrays([row], False)

    goals = [
        (place, target, weight)
        for place, target, weight in zip(
            *(np.array(arrays[name]).tolist() for name in ("places", "targets", "weights")),
            strict=True,
        )
        if weight
    ]
    assert goals == [(1, 3, 1.0), (3, 5, 0.5)]


def test_a_gradient_is_clipped_to_the_norm() -> None:
    free, held = tiny_model(), tiny_model()
    before = weights(free)

    norm = stepper(free).step(batches(8), 1.0).norm
    stepper(held, clip_norm=norm / 4).step(batches(8), 1.0)

    moved, limited = (mx.linalg.norm(weights(model) - before).item() for model in (free, held))
    assert moved == pytest.approx(norm, rel=1e-4)
    assert limited == pytest.approx(norm / 4, rel=1e-4)


@pytest.mark.slow
def test_a_compiled_step_is_the_plain_step() -> None:
    plain, compiled = tiny_model(), tiny_model()

    for model, mode in ((plain, False), (compiled, True)):
        walker = stepper(model, clip_norm=1.0, compiled=mode)
        for _ in range(3):
            walker.step(batches(4), 0.1)

    assert mx.allclose(weights(plain), weights(compiled), atol=1e-5).item()


def test_a_step_that_gives_no_number_says_so() -> None:
    model = tiny_model()
    model.model.norm.weight = model.model.norm.weight * math.inf

    result = stepper(model).step(batches(4), 0.1)

    assert not result.finite
    assert not finite(model)


def test_evaluating_leaves_model_and_mode_alone() -> None:
    model = tiny_model()
    model.train()
    before = weights(model)

    mean_loss(model, LOSS, batches(4))

    assert model.training
    assert mx.array_equal(weights(model), before).item()


@pytest.mark.parametrize(
    ("recipe", "least"),
    [
        (LossRecipe(name="label_smoothing", smoothing=0.3), 0.2),
        (LossRecipe(name="focal", gamma=2.0), 0.0),
        (LossRecipe(name="kl", teacher="t", weight=0.5), 0.0),
    ],
)
def test_every_loss_falls_when_followed(recipe: LossRecipe, least: float) -> None:
    model, teacher = tiny_model(), tiny_model()
    nn.Module.freeze(teacher)
    loss = answer_loss(recipe, ABLE, teacher)
    gradients = OneThread(model, loss, compiled=False)
    walker = Stepper(model, make_optimizer(OptimizerRecipe()), gradients, None, False)

    losses = [walker.step(batches(8), 1e-2).loss for _ in range(8)]

    assert least < losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("workers", [2, 3])
def test_threads_make_the_step_of_one(workers: int) -> None:
    whole, shared = tiny_model(), tiny_model()
    optimizer = make_optimizer(OptimizerRecipe(name="sgd"))
    many = Stepper(shared, optimizer, ManyThreads(shared, LOSS, workers), 0.5, False)

    one = stepper(whole, clip_norm=0.5)
    for _ in range(3):
        alone = one.step(batches(8), 0.1)
        together = many.step([rows_batch(ROWS, False, workers)], 0.1)

    many.close()
    assert together.loss == pytest.approx(alone.loss, rel=1e-5)
    assert mx.allclose(weights(whole), weights(shared), atol=1e-6).item()


def test_threads_give_the_same_bits_every_time() -> None:
    results = []
    for _ in range(3):
        model = tiny_model()
        optimizer = make_optimizer(OptimizerRecipe(name="adamw"))
        walker = Stepper(model, optimizer, ManyThreads(model, LOSS, 4), 1.0, False)
        for i in range(15):
            walker.step([rows_batch(ROWS, False, 4)], 0.01, seed=i)
        walker.close()
        results.append(weights(model))

    assert all(mx.array_equal(results[0], each).item() for each in results[1:])


def test_a_twin_shares_arrays_and_not_their_places() -> None:
    model = tiny_model()

    other = twin(model)
    other.model.norm.weight = other.model.norm.weight * 2

    assert other.model.embed_tokens.weight is model.model.embed_tokens.weight
    assert (model.model.norm.weight == 1).all().item()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 6))
def test_sharing_out_loses_nothing_and_balances(sizes: list[int], parts: int) -> None:
    shared = shared_out(sizes, lambda size: size, parts)

    assert sorted(size for part in shared for size in part) == sorted(sizes)
    assert all(shared)
    assert len(shared) <= parts
    assert max(map(sum, shared)) <= sum(sizes) / parts + max(sizes)


def test_the_blas_uses_one_thread_inside_and_as_many_as_before_after() -> None:
    report = preload_blas()
    library = ctypes.CDLL(str(report.path)) if report.loaded else None
    name = next((each for each in THREADS if hasattr(library, each)), None)
    if library is None or name is None:
        pytest.skip("the BLAS here is the system's own, or has no say in its threads")
    threads = getattr(library, name)
    before = threads()

    with one_blas_thread():
        inside = threads()

    assert inside == 1
    assert threads() == before >= 1
    assert usable_cores() >= 1
