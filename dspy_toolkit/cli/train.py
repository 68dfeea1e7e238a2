"""`dspy-tk train`: train a model or an adapter by a recipe, or go on with a run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.output import out_json, say, table
from dspy_toolkit.cli.training_progress import TrainingProgress
from dspy_toolkit.events import subscribed


def train_command(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="A recipe, as TOML.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Go on with a run that stopped, by id or folder."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train on MLX, with checkpoints; Ctrl-C saves one, and --resume goes on bit for bit.

    Example: dspy-tk train recipe.toml
    """
    if (recipe is None) == (resume is None):
        raise typer.BadParameter("give either a recipe or --resume RUN")
    progress = TrainingProgress(shown=not json)
    with progress if not json else nullcontext(), subscribed(progress):
        try:
            report = _report(recipe, resume)
        except BaseException:
            if progress.run is not None and progress.saved is not None:
                say(
                    f"the checkpoint of step {progress.saved} is kept; "
                    f"go on with: dspy-tk train --resume {progress.run}"
                )
            raise
    if json:
        out_json(report)
        return
    _show(report)


def _report(recipe: Path | None, run: str | None) -> dict[str, Any]:
    from dspy_toolkit.training import load_recipe, resume, train

    if run is not None:
        return resume(run)
    assert recipe is not None
    return train(load_recipe(recipe))


def _show(report: Mapping[str, Any]) -> None:
    validation, parameters = report["validation"]["best"], report["parameters"]
    rows = [
        ("steps", f"{report['steps']:,}"),
        ("tokens", f"{report['tokens']:,} at {report['tokens_per_s']:,.0f} a second"),
        ("weights trained", f"{parameters['trained']:,} of {parameters['all']:,}"),
        ("loss", f"{report['loss']['first']:.4f} -> {report['loss']['last']:.4f}"),
    ]
    if validation is not None:
        rows.append(("best validation", f"{validation['loss']:.4f} at step {validation['step']}"))
    if report["test"] is not None:
        rows.append(("test", f"{report['test']['loss']:.4f}"))
    kind = "model" if report["mode"] == "full" else "adapter"
    rows.append((kind, report["result"]))
    table(f"{report['name']} on {report['device']}", ("", "result"), rows)
    for split, facts in report["data"].items():
        if facts["truncated"] or facts["skipped"]:
            say(f"{split}: {facts['truncated']} examples cut, {facts['skipped']} left out")
    option = "--model" if kind == "model" else f"--model {report['model']} --adapter"
    say(f"use it: dspy-tk compile TASK {option} {report['result']}")
