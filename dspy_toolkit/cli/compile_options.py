"""The options of `dspy-tk compile`, and what their texts mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dspy_toolkit.errors import InvalidInput

if TYPE_CHECKING:
    from dspy_toolkit.programs.limits import Price

Task = Annotated[
    Path | None, typer.Argument(help="A folder that holds a task.toml; not needed to resume.")
]
Optimizer = Annotated[
    str | None, typer.Option(metavar="NAME", help="A name of the table; the task's if left out.")
]
Teacher = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Makes demonstrations, in the model's place."),
]
PromptModel = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Writes instructions, in the model's place."),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of everything random in the run.")]
Pairs = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="An option of the optimizer; may be repeated."),
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Put a copy of the artifact into this new folder."),
]
Against = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="An artifact or its run to beat, instead of the bare program."
    ),
]
Alpha = Annotated[
    float,
    typer.Option(metavar="P", help="Chance that the verdict between equal programs is wrong."),
]
KeepAnyway = Annotated[
    bool, typer.Option("--keep-anyway", help="Make an artifact even of a worse result.")
]
Resume = Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a run where it ended.")]
Fork = Annotated[
    bool,
    typer.Option("--fork", help="With --resume: a new run that takes over the run's calls."),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Begin anew, whatever run of this ended unfinished.")
]
MaxCalls = Annotated[int | None, typer.Option(metavar="N", help="Most model calls to make.")]
MaxTokens = Annotated[
    int | None, typer.Option(metavar="N", help="Most tokens to read and write, together.")
]
MaxMinutes = Annotated[float | None, typer.Option(metavar="X", help="Most minutes to work.")]
MaxMoney = Annotated[
    float | None,
    typer.Option(metavar="X", help="Most to spend on models elsewhere, by --price."),
]
Prices = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PRICE", help="Of a million tokens, as MODEL=INPUT/OUTPUT; may be repeated."
    ),
]
MaxFailures = Annotated[
    float,
    typer.Option(metavar="SHARE", help="Of the last 50 calls that may fail before the run ends."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only tell calls, tokens, time and memory.")
]
Probe = Annotated[
    int, typer.Option(metavar="N", min=0, help="Calls a dry run makes to measure the time.")
]
Rate = Annotated[
    float | None,
    typer.Option(metavar="X", min=0.001, help="Speed a dry run counts with instead."),
]


def pairs(given: list[str] | None) -> dict[str, str]:
    """Options of an optimizer by their keys.

    Raises:
        InvalidInput: one is no pair.
    """
    found = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InvalidInput(f"--option {text!r} is no pair; write --option key=value")
        found[key.strip()] = value.strip()
    return found


def prices(given: list[str] | None) -> dict[str, Price]:
    """Prices by model.

    Raises:
        InvalidInput: one is no price.
    """
    from dspy_toolkit.programs.limits import Price

    found = {}
    for text in given or ():
        model, _, pair = text.rpartition("=")
        try:
            into, out_of = map(float, pair.split("/"))
        except ValueError:
            raise InvalidInput(
                f"--price {text!r} is no price; write --price MODEL=INPUT/OUTPUT"
            ) from None
        found[model.strip()] = Price(into, out_of)
    return found
