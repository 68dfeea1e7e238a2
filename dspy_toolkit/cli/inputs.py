"""Inputs of a program on the command line."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dspy_toolkit.errors import InvalidInput

Input = Annotated[
    str, typer.Option(help="The inputs as a JSON object; @FILE reads a file, - reads stdin.")
]


def given_values(given: str) -> dict[str, Any]:
    """Read what was given as `Input`.

    Raises:
        InvalidInput: it is no JSON object. NotFound: there is no such file.
    """
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
