"""Programs, examples and metrics of the user's own, compiled from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.compiler.run import CompileOptions, compile_program, compile_task
from dspy_toolkit.config import Settings
from dspy_toolkit.programs.artifact import ask, load_artifact
from dspy_toolkit.programs.modules import build_module
from dspy_toolkit.programs.signature import dspy_signature
from dspy_toolkit.programs.task import load_task
from tests.compiler.running import compiled, examples, made
from tests.programs.tasks import SIGNATURE, chat, learner, scripted_lm, write_task


def test_a_program_of_ones_own_is_compiled_in_python(tmp_path: Path, settings: Settings) -> None:
    record = load_task(write_task(tmp_path / "routing")).signature
    assert record is not None
    program = build_module("predict", dspy_signature(record))

    result = compile_program(
        program,
        train=examples("train", 8),
        validation=examples("validation", 6),
        test=examples("test", 12),
        metric="exact",
        lm=scripted_lm(learner),
        options=CompileOptions(optimizer="labeled_few_shot"),
        settings=settings,
    )

    assert result.report["compiled"]["score"] == 1.0
    assert program.demos == []
    assert ask(made(result), {"text": "message 3"}, lm=scripted_lm(learner)) == {
        "team": "comet",
        "urgent": True,
    }


def test_a_metric_of_ones_own_is_a_function(settings: Settings) -> None:
    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
        return float(prediction.team == example.team)

    class Own(dspy.Module):  # type: ignore[misc]  # DSPy ships no types
        def __init__(self) -> None:
            super().__init__()
            self.step = dspy.Predict("text: str -> team: str")

        def forward(self, text: str) -> dspy.Prediction:
            return self.step(text=text)

    result = compile_program(
        Own(),
        train=examples("train", 8),
        validation=examples("validation", 6),
        test=examples("test", 12),
        metric=metric,
        lm=scripted_lm(lambda request: chat(team="atlas")),
        options=CompileOptions(optimizer="labeled_few_shot", name="own"),
        settings=settings,
    )
    lm = scripted_lm(lambda request: chat(team="atlas"))
    loaded = load_artifact(made(result)).program(lm, into=Own())

    assert (result.report["metric"], result.report["signature"]) == ("metric", None)
    assert result.report["compiled"]["score"] == 0.5
    assert loaded.step.demos == [demo.toDict() for demo in result.program.step.demos]


NOTED = SIGNATURE.replace("[outputs.team]", '[inputs.note]\ntype = "str | None"\n\n[outputs.team]')


def test_inputs_that_examples_leave_out_are_inputs_of_the_artifact(
    tmp_path: Path, settings: Settings
) -> None:
    task = load_task(write_task(tmp_path / "routing", signature=NOTED))
    assert task.signature is not None
    program = build_module("predict", dspy_signature(task.signature))
    lm = scripted_lm(learner)
    both = (
        compile_task(task, CompileOptions(lm=lm), settings),
        compile_program(
            program,
            train=examples("train", 8),
            validation=examples("validation", 6),
            test=examples("test", 12),
            metric="exact",
            lm=lm,
            options=CompileOptions(optimizer="labeled_few_shot"),
            settings=settings,
        ),
    )

    for result in both:
        assert load_artifact(made(result)).manifest["inputs"] == ["text", "note"]
        outputs = ask(made(result), {"text": "message 2", "note": "so long"}, lm=lm)
        assert outputs["team"] == "atlas"
        assert "so long" in lm.engine.requests[-1]


def test_a_program_from_an_artifact_is_compiled_in_the_format_that_is_asked_for(
    tmp_path: Path, settings: Settings
) -> None:
    first = compiled(tmp_path / "routing", settings, format="xml")
    lm = scripted_lm(learner)

    compile_program(
        load_artifact(made(first)).program(scripted_lm(learner)),
        train=examples("train", 8),
        validation=examples("validation", 6),
        test=examples("test", 12),
        metric="exact",
        lm=lm,
        options=CompileOptions(optimizer="labeled_few_shot", format="chat_only"),
        settings=settings,
    )

    assert "[[ ## team ## ]]" in lm.engine.requests[0]
