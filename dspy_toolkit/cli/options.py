"""Options that several commands take, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="What to run on: embedded, a model folder, or a hub id."),
]
Adapter = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="A fine-tune laid over the model, made by mlx-lm."),
]
Threads = Annotated[int | None, typer.Option(metavar="N", min=1, help="Examples in work at once.")]
Supervised = Annotated[
    bool | None,
    typer.Option(
        "--supervised/--in-process",
        help="Run models in a process of their own that is watched and restarted, or in this one.",
    ),
]
KeyFile = Annotated[
    Path | None, typer.Option(help="A file that holds the server's key, and nothing else.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def read_key(file: Path | None) -> str | None:
    """The key in a file; keys are never given on the command line, where others see them.

    Raises:
        NotFound: there is no such file. InvalidInput: it is empty.
    """
    from dspy_toolkit.errors import InvalidInput
    from dspy_toolkit.store.files import read_text

    if file is None:
        return None
    key = read_text(file, "key file").strip()
    if not key:
        raise InvalidInput(f"key file {file} is empty; put the server's key into it")
    return key
