"""`dspy-tk run`: ask a compiled program one thing."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.options import Adapter, Json, Model
from dspy_toolkit.cli.output import out, out_json
from dspy_toolkit.errors import InvalidInput


def run_command(
    artifact: Annotated[Path, typer.Argument(help="A folder that `compile` made.")],
    input: Annotated[
        str,
        typer.Option(help="The inputs as a JSON object; @FILE reads a file, - reads stdin."),
    ],
    model: Model = None,
    adapter: Adapter = None,
    json: Json = False,
) -> None:
    """Call a compiled program with one set of inputs and print its outputs.

    Without --model and --adapter it runs on the model it was compiled for.

    Example: dspy-tk run ./artifact --input '{"ticket": "My parcel never came."}'
    """
    from dspy_toolkit.programs.artifact import ask

    outputs = ask(artifact, _values(input), model=model, adapter=adapter)
    if json:
        out_json(outputs)
        return
    for name, value in outputs.items():
        text = value if isinstance(value, str) else json_module.dumps(value, ensure_ascii=False)
        out(f"{name}: {text}")


def _values(given: str) -> dict[str, Any]:
    from dspy_toolkit.store.files import read_text

    if given == "-":
        text, where = sys.stdin.read(), "stdin"
    elif given.startswith("@"):
        text, where = read_text(Path(given[1:]), "input file"), given[1:]
    else:
        text, where = given, "--input"
    try:
        values = json_module.loads(text)
    except json_module.JSONDecodeError as error:
        raise InvalidInput(
            f"{where} is not JSON ({error.msg}, column {error.colno}); "
            'write for example \'{"text": "..."}\''
        ) from None
    if not isinstance(values, dict):
        raise InvalidInput(f"{where} must be a JSON object of inputs, got {text.strip()[:60]!r}")
    return values
