"""`dspy-tk run`: ask a compiled program one thing."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.inputs import Input, given_values
from dspy_toolkit.cli.options import Adapter, Json, Model, Supervised
from dspy_toolkit.cli.output import out, out_json, say
from dspy_toolkit.errors import InvalidInput

if TYPE_CHECKING:
    from dspy_toolkit.config import Settings
    from dspy_toolkit.training.head_model import HeadModel


def run_command(
    artifact: Annotated[
        Path,
        typer.Argument(help="A folder that `compile` made, or a TOML file of fallbacks."),
    ],
    input: Input,
    model: Model = None,
    adapter: Adapter = None,
    supervised: Supervised = None,
    json: Json = False,
) -> None:
    """Call a compiled program with one set of inputs and print its outputs.

    Without --model and --adapter it runs on the model it was compiled for. A file of fallbacks
    names programs that answer for each other; who did is said on stderr.

    Example: dspy-tk run ./artifact --input '{"ticket": "My parcel never came."}'
    """
    from dspy_toolkit.config import load_settings
    from dspy_toolkit.programs.artifact import ask

    values = given_values(input)
    settings = load_settings({"supervised": supervised})
    if artifact.suffix == ".toml":
        if model is not None or adapter is not None:
            raise InvalidInput("a file of fallbacks names its models itself; leave the options out")
        outputs = _asked_with_fallbacks(artifact, values, settings)
    else:
        outputs = ask(artifact, values, model=model, adapter=adapter, settings=settings)
    if json:
        out_json(outputs)
        return
    for name, value in outputs.items():
        text = value if isinstance(value, str) else json_module.dumps(value, ensure_ascii=False)
        out(f"{name}: {text}")


def _asked_with_fallbacks(file: Path, values: dict[str, Any], settings: Settings) -> dict[str, Any]:
    from dspy_toolkit.engine.blas import preload_blas
    from dspy_toolkit.programs.fallback_file import ask_with_fallbacks

    def open_heads(folder: Path) -> HeadModel:
        preload_blas(settings.blas)
        from dspy_toolkit.training.head_model import HeadModel

        return HeadModel.load(folder, settings)

    outputs, by = ask_with_fallbacks(file, values, open_heads=open_heads, settings=settings)
    say(f"{by} answered")
    return outputs
