"""`dspy-tk init`: a new task folder to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dspy_toolkit.cli.output import out, say


def init_command(
    name: Annotated[Path, typer.Argument(help="The new folder; its name becomes the task's.")],
) -> None:
    """Write a new task that compiles at once on the embedded model.

    Example: dspy-tk init mail_sorting
    """
    from dspy_toolkit.programs.starter import new_task

    out(str(new_task(name)))
    say(
        "edit next: signature.toml (what goes in and out), data/*.jsonl (your examples), "
        f"task.toml (metric and model)\nthen: dspy-tk compile {name}"
    )
