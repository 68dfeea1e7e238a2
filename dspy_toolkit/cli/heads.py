"""`dspy-tk heads`: small models that answer a signature in one pass, trained from a task."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.inputs import Input, given_values
from dspy_toolkit.cli.options import Json
from dspy_toolkit.cli.output import out, out_json, say, table
from dspy_toolkit.cli.progress import live_progress
from dspy_toolkit.cli.scores import percent, with_interval
from dspy_toolkit.cli.training_progress import TrainingPhase
from dspy_toolkit.events import subscribed

app = typer.Typer(no_args_is_help=True, help="Models that answer a signature in one pass.")
Folder = Annotated[Path, typer.Argument(metavar="HEADS", help="A folder that `heads train` made.")]
TaskFolder = Annotated[Path, typer.Argument(help="A folder that holds a task.toml.")]


@app.command("train")
def train_command(
    task: TaskFolder,
    output: Annotated[Path, typer.Option(help="A new folder for the model.")],
    teacher: Annotated[
        Path | None,
        typer.Option(help="An artifact whose good answers are learnt; without one, the labels."),
    ] = None,
    base: Annotated[str, typer.Option(help="embedded, a model folder, or a hub id.")] = "embedded",
    mode: Annotated[str, typer.Option(help="full, lora, dora or frozen.")] = "full",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the training.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    json: Json = False,
) -> None:
    """Train a head for each output of a task's signature.

    Example: dspy-tk heads train examples/ticket_triage --output heads
    """
    from contextlib import ExitStack

    from dspy_toolkit.compiler.heads import lessons, score_heads
    from dspy_toolkit.programs.task import load_task
    from dspy_toolkit.store.files import refuse_existing
    from dspy_toolkit.training import HeadOptions, examples_of, train_heads

    options = HeadOptions(base=base, mode=mode, steps=steps, seed=seed)
    refuse_existing(output)
    loaded = load_task(task)
    with ExitStack() as shown:
        if not json:
            shown.enter_context(live_progress())
            shown.enter_context(subscribed(TrainingPhase("heads")))
        rows = lessons(loaded, teacher)
        train, validation = (
            examples_of(rows.signature, each) for each in (rows.train, rows.validation)
        )
        heads = train_heads(rows.signature, train, validation, options)
    heads.save(output)
    score = score_heads(loaded, lambda each: [found.outputs for found in heads.predict_many(each)])
    learnt = len(rows.train) + len(rows.validation)
    facts = {**asdict(score), "heads": str(output), "learnt_from": learnt, "asked": rows.asked}
    if json:
        out_json(facts)
        return
    _show(facts)
    say(f"use it: dspy-tk heads run {output} --input '{{...}}'")


@app.command("run")
def run_command(heads: Folder, input: Input, json: Json = False) -> None:
    """Answer one set of inputs.

    Example: dspy-tk heads run ./heads --input '{"ticket": "My parcel never came."}'
    """
    from dspy_toolkit.training import load_heads

    found = load_heads(heads).predict(given_values(input))
    if json:
        out_json({"outputs": found.outputs, "probabilities": found.probabilities})
        return
    for name, value in found.outputs.items():
        text = value if isinstance(value, str) else json_module.dumps(value, ensure_ascii=False)
        out(f"{name}: {text}")


@app.command("evaluate")
def evaluate_command(
    heads: Folder,
    task: TaskFolder,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    json: Json = False,
) -> None:
    """Score a head model by a task's metric.

    Example: dspy-tk heads evaluate ./heads examples/ticket_triage
    """
    from dspy_toolkit.compiler.heads import score_heads
    from dspy_toolkit.programs.task import load_task
    from dspy_toolkit.training import load_heads

    model, loaded = load_heads(heads), load_task(task)
    score = score_heads(
        loaded, lambda each: [found.outputs for found in model.predict_many(each)], split
    )
    facts = {**asdict(score), "heads": str(heads)}
    if json:
        out_json(facts)
        return
    _show(facts)


def _show(facts: dict[str, Any]) -> None:
    rows = [
        ("score", with_interval(percent(facts["score"]), facts["interval"])),
        ("calls a second", f"{facts['calls_per_s']:,.0f} one by one, "
         f"{facts['calls_per_s_in_batches']:,.0f} in batches"),
        ("heads", facts["heads"]),
    ]  # fmt: skip
    if "learnt_from" in facts:
        rows.append(("learnt from", f"{facts['learnt_from']} of {facts['asked']} examples"))
    table(f"{facts['task']}, {facts['n']} {facts['split']} examples", ("", "result"), rows)
