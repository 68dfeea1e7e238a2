"""`dspy-tk evaluate`: score a task's bare program or an artifact."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from dspy_toolkit.cli.options import Adapter, Json, Model, Threads
from dspy_toolkit.cli.output import out_json, say, table
from dspy_toolkit.cli.scores import calls, percent, with_interval


def evaluate_command(
    subject: Annotated[
        Path, typer.Argument(metavar="TASK_OR_ARTIFACT", help="A task folder or an artifact.")
    ],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    task: Annotated[
        Path | None, typer.Option(help="The task whose examples and metric to use.")
    ] = None,
    model: Model = None,
    adapter: Adapter = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Score a task's program without demonstrations, or a compiled artifact.

    Example: dspy-tk evaluate examples/ticket_triage --split validation
    """
    from dspy_toolkit.cli.progress import live_progress
    from dspy_toolkit.compiler.scoring import score_path

    with nullcontext() if json else live_progress():
        score = score_path(
            subject, split=split, task=task, model=model, adapter=adapter, threads=threads
        )
    if json:
        out_json(score.to_dict())
        return
    table(
        f"{score.task} on {score.model}, {score.n} {score.split} examples",
        ("", "result  (95 % interval)"),
        (
            ("score", with_interval(percent(score.score), score.interval)),
            ("model calls", calls(vars(score.calls))),
            ("seconds", f"{score.seconds:.1f}"),
        ),
    )
    if score.failures:
        say(f"{score.failures} answers could not be used; first: {score.first_failure}")
