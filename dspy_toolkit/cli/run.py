"""`dspy-tk run`: ask a compiled program one thing."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from dspy_toolkit.cli.inputs import Input, given_values
from dspy_toolkit.cli.options import Adapter, Json, Model, Supervised
from dspy_toolkit.cli.output import out, out_json


def run_command(
    artifact: Annotated[Path, typer.Argument(help="A folder that `compile` made.")],
    input: Input,
    model: Model = None,
    adapter: Adapter = None,
    supervised: Supervised = False,
    json: Json = False,
) -> None:
    """Call a compiled program with one set of inputs and print its outputs.

    Without --model and --adapter it runs on the model it was compiled for.

    Example: dspy-tk run ./artifact --input '{"ticket": "My parcel never came."}'
    """
    from dspy_toolkit.programs.artifact import ask

    values = given_values(input)
    outputs = ask(artifact, values, model=model, adapter=adapter, supervised=supervised)
    if json:
        out_json(outputs)
        return
    for name, value in outputs.items():
        text = value if isinstance(value, str) else json_module.dumps(value, ensure_ascii=False)
        out(f"{name}: {text}")
