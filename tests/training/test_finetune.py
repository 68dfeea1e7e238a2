from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest
import typer
from dspy.clients.utils_finetune import TrainDataFormat, TrainingStatus
from typer.testing import CliRunner

from dspy_toolkit.cli.finetune import finetune_command
from dspy_toolkit.compiler.dspy_scope import corrected
from dspy_toolkit.compiler.optimizers import Work, optimizer
from dspy_toolkit.compiler.optimizers.proposals import Routed
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.artifact import load_artifact
from dspy_toolkit.programs.finetune_provider import TunableLM, tunable
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.metrics import named_metric
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.training.adapters import AdapterTraining, adapter_trainer
from tests.training import tiny

EXAMPLE = Path(__file__).parents[2] / "examples" / "ticket_triage"
# Another answer than the one the model was trained to give.
LESSONS = [
    {
        "messages": [
            {"role": "user", "content": tiny.example(i)["messages"][0]["content"]},
            {"role": "assistant", "content": "device"},
        ]
    }
    for i in range(0, 24, 3)
]
QUESTION = tiny.example(0)["messages"][0]["content"]


@pytest.fixture
def base(trained: dict[str, Any], settings: Settings) -> Iterator[LocalLM]:
    opened = local_lm(trained["result"], settings=settings, max_tokens=4)
    yield opened
    opened.release()


@pytest.fixture
def tunable_lm(base: LocalLM, settings: Settings) -> TunableLM:
    how = AdapterTraining(rank=4, epochs=30, learning_rate=3e-3, sequence_length=64)
    return tunable(base, adapter_trainer(how, settings), settings)


def test_a_tuned_model_answers_what_it_was_taught_and_the_base_as_before(
    base: LocalLM, tunable_lm: TunableLM
) -> None:
    before = base(QUESTION)

    job = tunable_lm.finetune(LESSONS, TrainDataFormat.CHAT)
    tuned = job.result()

    assert job.status() == TrainingStatus.succeeded
    assert before == ["billing"]
    assert tuned(QUESTION) == ["device"]
    assert base(QUESTION) == before
    assert tuned.model != base.model
    assert (Path(tuned.source.adapter) / "adapters.safetensors").is_file()
    tuned.release()


class Plain(dspy.ChatAdapter):  # type: ignore[misc]
    """Prompts as short as the tiny model's context."""

    def format(self, signature: Any, demos: Any, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": inputs["question"]}]

    def format_assistant_message_content(
        self, signature: Any, outputs: Mapping[str, Any], *rest: Any
    ) -> str:
        return str(outputs["topic"])

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        return {"topic": completion}


def test_dspys_own_bootstrap_finetune_trains_it(tunable_lm: TunableLM) -> None:
    student, teacher = dspy.Predict("question -> topic"), dspy.Predict("question -> topic")
    student.set_lm(tunable_lm)
    teacher.set_lm(tunable_lm)
    questions = [tiny.example(i)["messages"][0]["content"] for i in range(12)]
    examples = [
        dspy.Example(question=question, topic="").with_inputs("question") for question in questions
    ]

    with dspy.context(adapter=Plain(), num_threads=2):
        tuned = dspy.BootstrapFinetune(num_threads=2).compile(student, examples, teacher)
        answer = tuned(question=questions[0]).topic

    assert answer == "billing"
    assert tuned.lm.source.adapter is not None
    tuned.lm.release()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bootstrap_finetune", {}),
        (
            "better_together",
            {"strategy": "p -> w", "num_candidate_programs": 1, "max_labeled_demos": 0},
        ),
    ],
)
def test_optimizers_that_train_return_a_program_with_the_tuned_model(
    name: str, options: dict[str, Any], base: LocalLM, settings: Settings
) -> None:
    def trainer(**how: Any) -> Any:
        return adapter_trainer(AdapterTraining(sequence_length=64, **how), settings)

    questions = [tiny.example(i)["messages"][0]["content"] for i in range(0, 24, 3)]
    examples = [
        dspy.Example(question=question, topic="billing").with_inputs("question")
        for question in questions
    ]
    metric = named_metric("exact", ["topic"])
    work = Work(examples, examples[:2], metric, 2, lm=base, adapters=trainer)
    row = optimizer(name)
    settled = row.settle({"rank": 4, "epochs": 2, **options})
    style = Plain()
    with corrected(lambda line: None), dspy.context(lm=base, adapter=Routed(style), num_threads=2):
        program = row.compile(dspy.Predict("question -> topic"), work, settled)
        tuned = program.predictors()[0].lm
        answer = program(question=questions[0]).topic

    assert answer == "billing"
    if name == "bootstrap_finetune":
        assert tuned.source.adapter is not None
        tuned.release()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"mode": "full"}, "lora or dora, got 'full'"), ({"learning_rate": 0.0}, "above 0, got 0.0")],
)
def test_what_cannot_be_trained_is_said_before_the_task_is_compiled(
    wrong: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        AdapterTraining(**wrong)


def test_nothing_is_compiled_for_an_output_that_is_there(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    monkeypatch.setenv("DSPY_TK_HOME", str(settings.home))
    app = typer.Typer()
    app.command()(finetune_command)

    ran = CliRunner().invoke(app, [str(EXAMPLE), "--output", str(tmp_path)])

    assert isinstance(ran.exception, InvalidInput)
    assert "already exists" in str(ran.exception)
    assert not settings.runs.exists()


def test_training_without_a_trainer_says_what_to_do(base: LocalLM) -> None:
    row = optimizer("bootstrap_finetune")
    work = Work([], [], named_metric("exact", ["topic"]), 1, lm=base)

    with pytest.raises(InvalidInput, match="needs a trainer of adapters; use `dspy-tk compile`"):
        row.compile(dspy.Predict("question -> topic"), work, row.settle({}))


def test_what_cannot_be_tuned_says_why(tunable_lm: TunableLM, base: LocalLM) -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}
    scripted = LocalLM("x/y", engine=base.engine)

    with pytest.raises(InvalidInput, match="on chat data, not on 'completion'"):
        tunable_lm.finetune(LESSONS, "completion")
    with pytest.raises(InvalidInput, match="media, which text models cannot learn"):
        tunable_lm.finetune([{"messages": [image]}], TrainDataFormat.CHAT)
    with pytest.raises(InvalidInput, match="opened by its reference"):
        tunable(scripted, lambda reference, examples: Path())


@pytest.mark.slow
def test_finetuning_a_task_gives_an_adapter_and_an_artifact(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path
) -> None:
    monkeypatch.setenv("DSPY_TK_HOME", str(settings.home))
    shutil.copytree(EXAMPLE, tmp_path / "task")
    for name, count in (("train", 24), ("validation", 12), ("test", 20)):
        file = tmp_path / "task" / "data" / f"{name}.jsonl"
        file.write_text("\n".join(file.read_text().splitlines()[:count]) + "\n")
    task = tmp_path / "task" / "task.toml"
    head, _, _ = task.read_text().partition("[optimizer]")
    task.write_text(head + '[optimizer]\nname = "labeled_few_shot"\nk = 8\n')
    app = typer.Typer()
    app.command()(finetune_command)

    ran = CliRunner().invoke(app, [str(tmp_path / "task"), "--epochs", "6", "--json"])

    assert ran.exit_code == 0, ran.stderr
    facts = json.loads(ran.stdout)
    artifact = load_artifact(facts["artifact"])
    assert facts["optimizer"] == "bootstrap_finetune"
    assert 0 < facts["traces"] <= 36
    assert artifact.manifest["model"]["adapter"] == facts["adapter"]
    assert (Path(facts["adapter"]) / "adapter_config.json").is_file()
