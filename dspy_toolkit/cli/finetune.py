"""`dspy-tk finetune`: train an adapter on a program's good answers, beside the compiled prompt."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.output import out_json, say, table
from dspy_toolkit.cli.progress import live_progress
from dspy_toolkit.cli.scores import between, percent, points
from dspy_toolkit.cli.training_progress import TrainingPhase
from dspy_toolkit.events import subscribed


def finetune_command(
    task: Annotated[Path, typer.Argument(help="A folder that holds a task.toml.")],
    teacher: Annotated[
        Path | None,
        typer.Option(help="An artifact to learn from; without one the task is compiled first."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="What is tuned: embedded, a model folder, or a hub id.")
    ] = None,
    mode: Annotated[str, typer.Option(help="lora or dora.")] = "lora",
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapter.")] = 8,
    epochs: Annotated[int, typer.Option(min=1, help="How often each answer is seen.")] = 8,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Highest learning rate.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Examples in work at once.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Put a copy of the artifact into this new folder.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fine-tune a task's model on its own good answers; score it beside the compiled prompt.

    Example: dspy-tk finetune examples/ticket_triage
    """
    from dspy_toolkit.compiler.finetune import FinetuneOptions, finetune_task
    from dspy_toolkit.compiler.report import summary
    from dspy_toolkit.programs.task import load_task
    from dspy_toolkit.training.adapters import AdapterTraining, adapter_trainer

    loaded = load_task(task)
    how = AdapterTraining(
        name=loaded.name,
        mode=mode,
        rank=rank,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
    )
    options = FinetuneOptions(
        teacher=teacher, model=model, seed=seed, threads=threads, output=output
    )
    with ExitStack() as shown:
        if not json:
            shown.enter_context(live_progress())
            shown.enter_context(subscribed(TrainingPhase("fine-tune")))
        result = finetune_task(loaded, adapter_trainer(how), options)
    facts = {
        **summary(result.compiled.report),
        "teacher": str(result.teacher),
        "adapter": str(result.adapter),
        "traces": result.traces,
    }
    if json:
        out_json(facts)
        return
    _show(facts, result.compiled.report, result.asked)


def _show(facts: dict[str, Any], report: Any, asked: int) -> None:
    before, after, gain = facts["baseline"], facts["compiled"], report["difference"]
    table(
        f"{facts['task']} on {facts['model']}, {after['n']} held-out test examples",
        ("", "result", "95 % interval"),
        (
            ("compiled prompt", percent(before["score"]), between(before["interval"])),
            ("fine-tuned", percent(after["score"]), between(after["interval"])),
            ("difference", points(gain["score"]), between(gain["interval"], signed=True)),
            ("learnt from", f"{facts['traces']} of {asked} answers", ""),
            ("adapter", facts["adapter"], ""),
            ("artifact", facts["artifact"] or "none: the result is worse", ""),
        ),
    )
    say(f"use it: dspy-tk evaluate TASK --model {facts['model']} --adapter {facts['adapter']}")
