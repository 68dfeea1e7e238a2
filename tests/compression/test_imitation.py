from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dspy_toolkit.compression.build import build, order
from dspy_toolkit.compression.calibration import CalibrationSet
from dspy_toolkit.compression.imitation import (
    Imitation,
    OnPolicy,
    attributions,
    kl,
    matching_block,
    states_distance,
)
from dspy_toolkit.compression.make import distill_stages
from dspy_toolkit.compression.opened import open_subject, working_device
from dspy_toolkit.compression.subject import look_at
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, UnknownKey
from dspy_toolkit.training.backbone import Abilities
from dspy_toolkit.training.batches import rows_batch
from tests.compression.making import reading
from tests.compression.test_prune import TOKENS, random_model
from tests.engine.tiny import write_architecture

HALF = mx.array([[math.log(0.5), math.log(0.5)]])
SURE = mx.array([[math.log(0.9), math.log(0.1)]])


@pytest.mark.parametrize(
    ("divergence", "value"),
    [
        # KL(teacher || student) with the teacher at (0.9, 0.1)
        ("forward", 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)),
        # KL(student || teacher)
        ("reverse", 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)),
    ],
)
def test_divergences_by_hand(divergence: str, value: float) -> None:
    assert kl(HALF, SURE, divergence, 1.0).item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("divergence", ["forward", "reverse"])
def test_a_perfect_student_diverges_in_nothing(divergence: str) -> None:
    assert kl(SURE, SURE + 3.0, divergence, 2.0).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("of", "among", "matched"), [(2, 4, [1, 3]), (1, 3, [2]), (3, 3, [0, 1, 2])]
)
def test_blocks_are_matched_by_how_far_they_are(of: int, among: int, matched: list[int]) -> None:
    assert [matching_block(place, of, among) for place in range(of)] == matched


def test_states_of_one_model_are_at_no_distance_from_themselves() -> None:
    model = random_model()

    assert states_distance(model, model, TOKENS, None).item() == pytest.approx(0.0, abs=1e-6)


def test_states_are_compared_by_the_size_of_the_teachers() -> None:
    teacher, student = random_model(), random_model()
    for block in student.layers:
        block.self_attn.o_proj.weight = mx.zeros_like(block.self_attn.o_proj.weight)
        block.mlp.down_proj.weight = mx.zeros_like(block.mlp.down_proj.weight)
    student.model.embed_tokens.weight = mx.zeros_like(student.model.embed_tokens.weight)

    assert states_distance(student, teacher, TOKENS, None).item() == pytest.approx(1.0, rel=1e-4)


def test_attributions_are_gradient_times_embedding(data: CalibrationSet) -> None:
    model = random_model()
    row = data.rows[0]
    batch = dict(rows_batch([row], document_mask=False).parts[0])
    batch["tokens"] = batch["tokens"] % 30
    batch["targets"] = batch["targets"] % 30

    shares = attributions(model, batch, Abilities(splits=True, masks=True))

    assert shares.shape == batch["tokens"].shape
    assert shares.mean().item() == pytest.approx(1.0, rel=1e-4)
    # No token after the last answer's is read by it.
    assert shares[0, len(row.tokens) - 1 :].max().item() == 0.0


def test_on_policy_batches_come_as_often_as_asked_for_and_repeat(
    data: CalibrationSet, model: Path, settings: Settings
) -> None:
    opened = open_subject(look_at(str(model), settings), working_device(settings))
    how = Imitation(batch=1, on_policy=0.5)
    rows = data.fit
    given = rows_batch(rows[:1], document_mask=False)

    class Given:
        def batch(self, index: int) -> Any:
            return given

    end = int(opened.tokenizer.eos_token_id)
    source = OnPolicy(Given(), rows, opened.model, how, end)
    drawn = [source.batch(index) for index in range(4)]
    again = OnPolicy(Given(), rows, opened.model, how, end).batch(1)

    assert [each is given for each in drawn] == [True, False, True, False]
    assert mx.array_equal(again.parts[0]["tokens"], drawn[1].parts[0]["tokens"])


def test_a_student_learns_and_a_second_stage_starts_from_the_first(
    model: Path, settings: Settings, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"order {i} late parcel refund team" for i in range(12)))
    options = {"steps": 6, "batch": 2, "length": 16, "learning_rate": 3e-3}

    first, second = distill_stages(
        str(model), ["ffn=96", "ffn=64,heads=2"], options, calibration=str(text), settings=settings
    )

    curve = first.manifest["made"]["curve"]
    assert curve[-1][1] < curve[0][1]
    assert second.manifest["parent"]["reference"] == str(first.folder)
    assert second.measures["parameters"] < first.measures["parameters"]


def test_a_shape_that_cannot_be_is_told(
    model: Path, data: CalibrationSet, settings: Settings
) -> None:
    with pytest.raises(InvalidInput, match="has 2; ask for at most that"):
        order(str(model), "distill", {"layers": 9}, data, settings)
    with pytest.raises(InvalidInput, match="multiple of 2"):
        order(str(model), "distill", {"heads": 3}, data, settings)
    with pytest.raises(UnknownKey, match="layerz"):
        distill_stages(str(model), ["layerz=1"], {}, calibration="samples", settings=settings)


def test_healing_goes_on_after_a_kill_to_the_same_weights(
    model: Path, data: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dspy_toolkit.compression import following
    from dspy_toolkit.training.trainer import Trainer

    monkeypatch.setattr(following, "_CHECKPOINT_EVERY", 2)
    options = {"structure": "ffn", "target": 0.1, "heal": True, "steps": 6, "batch": 2,
               "length": 16}  # fmt: skip
    whole, broken = Settings(home=tmp_path / "whole"), Settings(home=tmp_path / "broken")
    straight = build(order(str(model), "prune", options, data, whole), whole)
    steps = Trainer._step

    def dying(self: Any, progress: Any) -> None:
        if progress.step == 3:
            raise MemoryError
        steps(self, progress)

    with monkeypatch.context() as killed:
        killed.setattr(Trainer, "_step", dying)
        with pytest.raises(MemoryError):
            build(order(str(model), "prune", options, data, broken), broken)
    resumed = build(order(str(model), "prune", options, data, broken), broken)

    assert resumed.manifest["made"]["healing"]["resumed_at"] == [2]
    assert resumed.manifest["files"] == straight.manifest["files"]


def test_low_rank_by_hand() -> None:
    from dspy_toolkit.compression.factorize import rank_for, truncated, whitening

    weight = mx.array([[3.0, 0.0], [0.0, 1.0]])
    # Inputs that hardly ever use the first column make the second one matter.
    left, right, energies = truncated(weight, mx.eye(2))
    far, near, _ = truncated(weight, mx.array([[0.01, 0.0], [0.0, 1.0]]))
    factor = whitening(mx.array([[4.0, 2.0], [2.0, 3.0]]))

    assert energies == pytest.approx([0.9, 1.0])
    assert (rank_for(energies, 0.9), rank_for(energies, 0.91)) == (1, 2)
    assert mx.allclose(left[:, :1] @ right[:1], mx.array([[3.0, 0.0], [0.0, 0.0]]), atol=1e-4)
    assert mx.allclose(far[:, :1] @ near[:1], mx.array([[0.0, 0.0], [0.0, 1.0]]), atol=1e-4)
    assert mx.allclose(factor @ factor.T, mx.array([[4.035, 2.0], [2.0, 3.035]]), atol=1e-4)


def test_a_low_rank_model_is_the_one_that_was_made(
    model: Path, data: CalibrationSet, settings: Settings
) -> None:
    made = build(
        order(
            str(model), "factorize", {"rank": 4, "embedding": True, "length": 16}, data, settings
        ),
        settings,
    )
    opened = open_subject(look_at(str(made.folder), settings), working_device(settings))
    names = {name for name, _ in tree_flatten(opened.model.parameters())}

    assert any(name.endswith(".up") for name in names)
    assert made.measures["bytes"] < made.measures["parent_bytes"]


@pytest.mark.parametrize("name", ["mamba", "gemma3"])
def test_models_that_are_no_llamas_become_low_rank(
    name: str, settings: Settings, tmp_path: Path
) -> None:
    other = write_architecture(tmp_path / name, name)
    text = reading(tmp_path / "text", other, settings)

    options = {"rank": 4, "embedding": True, "length": 16}
    made = build(order(str(other), "factorize", options, text, settings), settings)

    assert made.measures["parameters"] < made.measures["parent_parameters"]
