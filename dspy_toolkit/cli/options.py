"""Options that several commands take, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None, typer.Option(help="What to run on: embedded, a model folder, or a hub id.")
]
Adapter = Annotated[
    Path | None, typer.Option(help="A fine-tune laid over the model, made by mlx-lm.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Examples in work at once.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
