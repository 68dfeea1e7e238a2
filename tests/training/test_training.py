from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.tuner.utils import load_adapters

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.errors import InvalidInput, NotFound, StorageError
from dspy_toolkit.events import (
    CheckpointSaved,
    Event,
    RunFinished,
    RunStarted,
    TrainingEvaluated,
    TrainingStepped,
    subscribed,
)
from dspy_toolkit.store.history import FAILED, FINISHED, History
from dspy_toolkit.store.manifest import read_manifest
from dspy_toolkit.training import train
from dspy_toolkit.training.checkpoints import load_arrays
from dspy_toolkit.training.packing import TooLong
from dspy_toolkit.training.tables import InvalidRecipe
from dspy_toolkit.training.trainer import TrainingDiverged
from tests.training import tiny
from tests.training.conftest import RecipeMaker, Values, merged


def answer(model: Any, tokenizer: Any, question: str) -> str:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True
    )
    return str(mlx_lm.generate(model, tokenizer, prompt, max_tokens=8))


def test_a_model_trained_from_scratch_answers_what_it_was_not_shown(
    trained: dict[str, Any],
) -> None:
    model, tokenizer = mlx_lm.load(trained["result"])
    held_out = [tiny.example(i)["messages"] for i in range(0, 48, 4)]

    right = [
        answer(model, tokenizer, asked["content"]) == said["content"] for asked, said in held_out
    ]

    assert sum(right) >= 11


def test_the_report_says_what_happened(trained: dict[str, Any]) -> None:
    curve = trained["loss"]["curve"]

    assert trained["steps"] == 60
    assert [point[0] for point in curve] == list(range(2, 61, 2))
    assert trained["loss"]["last"] < 0.1 < 1.0 < trained["loss"]["first"]
    assert [step for step, _ in trained["validation"]["curve"]] == [10, 20, 30, 40, 50, 60]
    assert trained["test"]["loss"] < 0.1
    assert trained["data"]["train"]["examples"] == 36
    assert trained["parameters"]["all"] == trained["parameters"]["trained"] > 80_000
    assert json.loads((Path(trained["result"]).parent / "report.json").read_text()) == trained


def test_the_best_checkpoint_is_handed_over(trained: dict[str, Any]) -> None:
    scored = {each["step"]: each["loss"] for each in trained["checkpoints"]}

    assert trained["weights_of"] == min(scored, key=lambda step: scored[step])
    assert read_manifest(Path(trained["result"]), "model")["step"] == trained["weights_of"]


def test_events_tell_of_every_step_and_checkpoint(recipe: RecipeMaker, settings: Settings) -> None:
    heard: list[Event] = []

    with subscribed(heard.append):
        report = train(
            recipe({"data": {"validation": "validation.jsonl"}, "training": {"evaluate_every": 4}}),
            settings,
        )

    steps = [event for event in heard if isinstance(event, TrainingStepped)]
    assert [event.step for event in steps] == list(range(1, 9))
    assert steps[-1].seconds_left == 0.0
    assert all(event.tokens_per_s > 0 and event.loss > 0 for event in steps)
    assert [event.step for event in heard if isinstance(event, TrainingEvaluated)] == [4, 8]
    assert [event.step for event in heard if isinstance(event, CheckpointSaved)] == [3, 6, 8]
    assert isinstance(heard[0], RunStarted)
    assert isinstance(heard[-1], RunFinished)
    history = History(settings.database)
    assert history.get(report["run"]).status == FINISHED
    history.close()


@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_an_adapter_loads_in_mlx_lm_and_in_the_engine(
    recipe: RecipeMaker, settings: Settings, adapting: Values, trained: dict[str, Any], mode: str
) -> None:
    report = train(
        recipe(
            merged(
                adapting,
                {"model": {"mode": mode}, "adapter": {"layers": 1, "keys": ["self_attn.v_proj"]}},
            )
        ),
        settings,
    )

    model, tokenizer = mlx_lm.load(trained["result"])
    tokens = mx.array([tokenizer.encode("the box broke")])
    before = model(tokens)
    adapted = load_adapters(model, report["result"])
    names = load_arrays(Path(report["result"]) / "adapters.safetensors")
    assert not mx.allclose(adapted(tokens), before, atol=1e-5).item()
    assert all(name.startswith("model.layers.1.self_attn.v_proj") for name in names)
    assert report["parameters"]["trained"] < report["parameters"]["all"] / 100
    opened = open_engine(
        trained["result"], EngineOptions(adapter=Path(report["result"]), max_tokens=4), settings
    )
    opened.close()


def test_full_weights_of_a_base_model_are_trained_on(
    recipe: RecipeMaker, settings: Settings, adapting: Values
) -> None:
    report = train(
        recipe(
            merged(
                adapting,
                {"model": {"mode": "full"}, "adapter": None, "result": {"dtype": "float16"}},
            )
        ),
        settings,
    )

    model, _ = mlx_lm.load(report["result"])
    assert report["loss"]["first"] < 0.1
    assert model.model.norm.weight.dtype == mx.float16


def test_a_teacher_can_be_followed(
    recipe: RecipeMaker, settings: Settings, trained: dict[str, Any]
) -> None:
    report = train(
        recipe(
            {
                "loss": {"name": "kl", "teacher": trained["result"], "weight": 1.0},
                "training": {"steps": 30},
            }
        ),
        settings,
    )

    assert report["loss"]["last"] < report["loss"]["first"] / 2


def test_augmented_examples_are_learnt_from(recipe: RecipeMaker, settings: Settings) -> None:
    report = train(
        recipe({"augment": {"copies": 2, "character_noise": 0.2, "formatting": 0.5}}), settings
    )

    assert report["data"]["train"]["examples"] == 3 * 36


GENERATOR = """
TOPICS = ("parcel", "billing", "device")


def examples(seed, batch, count):
    for i in range(count):
        topic = TOPICS[(seed + batch * count + i) % 3]
        yield {"prompt": f"say {topic}:", "completion": " " + topic}


def broken(seed, batch, count):
    return [1 / 0]


def bad(seed, batch, count):
    return [{"prompt": "x"}]
"""


def generated(tmp_path: Path, function: str) -> dict[str, Any]:
    (tmp_path / "episodes.py").write_text(GENERATOR)
    return {"data": {"train": None, "generator": f"{tmp_path}/episodes.py:{function}"}}


def test_a_generator_makes_examples_without_end(
    recipe: RecipeMaker, settings: Settings, tmp_path: Path
) -> None:
    changes = {**generated(tmp_path, "examples"), "training": {"steps": 40, "batch_size": 6}}

    report = train(recipe(changes), settings)

    assert report["loss"]["last"] < 0.5 < report["loss"]["first"]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("broken", r"episodes.py:12: ZeroDivisionError: division by zero \(batch 0\)"),
        ("bad", "episodes.py:bad, batch 0, example 0: completion must be a text"),
        ("example", "has no function 'example'; did you mean 'examples'"),
    ],
)
def test_a_generator_that_fails_is_named_with_its_line(
    recipe: RecipeMaker, settings: Settings, tmp_path: Path, function: str, says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        train(recipe(generated(tmp_path, function)), settings)


def test_bad_input_leaves_no_run_behind(
    recipe: RecipeMaker, settings: Settings, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "x"}\n')

    for changes in (
        {"data": {"train": str(bad)}},
        {"data": {"sequence_length": 4}},
        {"model": {"config": {"hidden_sise": 8}}},
        {"model": {"config": {"vocab_size": 8}}},
        {"model": {"config": {"num_attention_heads": 0}}},
        {"model": {"config": {"max_position_embeddings": 32}}},
        {"model": {"tokenizer": "nowhere"}},
    ):
        with pytest.raises((InvalidInput, NotFound)):
            train(recipe(changes), settings)

    assert not settings.runs.exists()


def test_a_sequence_longer_than_a_row_is_refused_or_cut_as_asked(
    recipe: RecipeMaker, settings: Settings
) -> None:
    with pytest.raises(TooLong, match=r"train.jsonl:\d+: has \d+ tokens, a row holds 14"):
        train(recipe({"data": {"sequence_length": 14}}), settings)
    report = train(recipe({"data": {"sequence_length": 14, "too_long": "skip"}}), settings)

    facts = report["data"]["train"]
    assert facts["skipped"] > 0
    assert facts["examples"] + facts["skipped"] == 36


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"adapter": {"layers": 9}}, "layers is 9, but the model has 2"),
        ({"adapter": {"rank": 5000}}, r"rank is 5000, but the widest matrix it adapts has \d+ out"),
        ({"adapter": {"keys": ["self_attn.v_pro"]}}, "did you mean 'self_attn.v_proj'"),
        ({"data": {"sequence_length": 4000}}, "the model reads at most 64 tokens"),
    ],
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(
    recipe: RecipeMaker, settings: Settings, adapting: Values, changes: Values, says: str
) -> None:
    with pytest.raises(InvalidRecipe, match=says):
        train(recipe(merged(adapting, changes)), settings)


def test_a_loss_that_becomes_no_number_stops_at_the_last_good_checkpoint(
    recipe: RecipeMaker, settings: Settings
) -> None:
    wild = {"name": "sgd", "learning_rate": 1e30}
    changes = {"optimizer": wild, "schedule": {"warmup_steps": 7}, "checkpoint": {"every": 1}}
    heard: list[Event] = []

    with (
        subscribed(heard.append),
        pytest.raises(
            TrainingDiverged, match=r"at step \d+, batch \d+ \(.*train.jsonl:\d+"
        ) as caught,
    ):
        train(recipe(changes), settings)

    saved = [event.step for event in heard if isinstance(event, CheckpointSaved)]
    (run,) = settings.runs.iterdir()
    assert f"step {saved[-1] + 1}" in str(caught.value)
    assert f"the checkpoint of step {saved[-1]} is kept" in str(caught.value)
    assert (run / "checkpoints" / f"step-{saved[-1]:08d}").is_dir()
    assert not (run / "model").exists()
    history = History(settings.database)
    assert history.get(run.name).status == FAILED
    history.close()


def test_a_full_disk_stops_the_run_and_removes_nothing(
    recipe: RecipeMaker, settings: Settings, fill_the_disk: Callable[[int], None]
) -> None:
    fill_the_disk(2)

    with pytest.raises(StorageError, match="a checkpoint needs"):
        train(recipe({}), settings)

    (run,) = settings.runs.iterdir()
    assert [each.name for each in (run / "checkpoints").iterdir()] == ["step-00000003"]
