"""`dspy-tk bench`: models beside each other in speed, memory and size."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.options import Json
from dspy_toolkit.cli.output import out_json, say, table
from dspy_toolkit.errors import InvalidInput


def bench_command(
    models: Annotated[list[str], typer.Argument(help="embedded, model folders, or hub ids.")],
    rows: Annotated[str, typer.Option(help="Prompts at once, one measurement each.")] = "1,8,32",
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 256,
    new: Annotated[int, typer.Option(min=2, help="Tokens written for each.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is repeated.")] = 3,
    against: Annotated[
        Path | None, typer.Option(help="A report of an earlier bench --json to show beside it.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure how fast models read and write, what memory they take and how long they load.

    Models take turns, round after round; medians are shown with the least and the largest value.

    Example: dspy-tk bench embedded MODEL --rows 1,8
    """
    from dspy_toolkit.cli.progress import live_progress
    from dspy_toolkit.compression.bench import BenchOptions, bench, compared

    options = BenchOptions(rows=_rows(rows), prompt=prompt, new=new, rounds=rounds)
    with nullcontext() if json else live_progress():
        report = bench(models, options)
    if against is not None:
        report = compared(report, against)
    if json:
        out_json(report)
    else:
        _show(report)
    if report["note"]:
        say(f"note: {report['note']}")


def _rows(words: str) -> tuple[int, ...]:
    parts = [word.strip() for word in words.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InvalidInput(f"--rows {words!r} must be whole numbers above 0, such as 1,8,32")
    return tuple(int(part) for part in parts)


def _show(report: dict[str, Any]) -> None:
    table(
        f"{report['machine']}, {report['device']}, {report['dtype']}",
        ("model", "parameters", "size", "memory", "load"),
        [
            (
                _name(each["model"]),
                f"{each['parameters']:,}",
                f"{each['size_bytes'] / 1e6:.2f} MB",
                f"{each['weight_bytes'] / 1e6:.2f} MB",
                f"{each['load_s']:.2f} s",
            )
            for each in report["models"]
        ],
    )
    table(
        f"prompts of {report['prompt_tokens']} tokens, {report['new_tokens']} written, "
        f"{report['rounds']} rounds",
        ("model", "rows", "read tokens/s", "write tokens/s", "first token", "peak memory"),
        [
            (
                _name(each["model"]),
                str(speed["rows"]),
                _spread(speed["prefill_tokens_per_s"], "{:,.0f}"),
                _spread(speed["decode_tokens_per_s"], "{:,.0f}"),
                _spread(speed["first_token_s"], "{:.3f}") + " s",
                f"{speed['peak_bytes'] / 1e6:.0f} MB",
            )
            for each in report["models"]
            for speed in each["speeds"]
        ],
    )


def _name(reference: str) -> str:
    """A folder's own name; whatever else a model is called by as it is."""
    place = Path(reference)
    return place.name if place.is_dir() else reference


def _spread(value: dict[str, float], form: str) -> str:
    middle, low, high = (form.format(value[key]) for key in ("median", "least", "most"))
    return f"{middle} ({low} to {high})"
