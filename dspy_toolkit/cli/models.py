"""`dspy-tk models`: which models there are, what one is, and getting another."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.output import out, out_json, say, table

if TYPE_CHECKING:
    from dspy_toolkit.engine.catalog import ModelFacts

app = typer.Typer(name="models", help="Look at models and download them.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Reference = Annotated[
    str, typer.Argument(help="embedded, a model folder, or a hub id such as mlx-community/...")
]


@app.command("list")
def list_command(json: Json = False) -> None:
    """List the models on this machine and those worth getting.

    Example: dspy-tk models list
    """
    from dspy_toolkit.engine import list_models

    entries = list_models()
    if json:
        out_json({"models": [_plain(dataclasses.asdict(entry)) for entry in entries]})
        return
    rows = [
        (
            entry.reference,
            "here" if entry.present else _size(entry.size_bytes),
            f"{entry.machine_gb} GB" if entry.machine_gb else "",
            entry.note,
        )
        for entry in entries
    ]
    table("", ("model", "download", "needs", "note"), rows)
    say("get one with `dspy-tk models pull MODEL`")


@app.command()
def show(
    model: Reference,
    json: Json = False,
    device: Annotated[str, typer.Option(help="auto, gpu or cpu.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
) -> None:
    """Show what a model on this machine is and how it would run here.

    Example: dspy-tk models show embedded
    """
    from dspy_toolkit.engine import EngineOptions, describe_model

    facts = describe_model(model, EngineOptions(device=device, dtype=dtype))
    if json:
        out_json({**_plain(dataclasses.asdict(facts)), "fits": facts.fits})
        return
    table("", ("", facts.reference), _rows(facts))


@app.command()
def pull(model: Reference, json: Json = False) -> None:
    """Download a model from the Hugging Face hub.

    Example: dspy-tk models pull mlx-community/Qwen3-4B-Instruct-2507-4bit
    """
    from dspy_toolkit.engine import pull_model

    folder = pull_model(model, progress=not json)
    if json:
        out_json({"reference": model, "folder": str(folder)})
    else:
        out(str(folder))


def _rows(facts: ModelFacts) -> list[tuple[str, str]]:
    packing = facts.quantization or "none"
    if facts.expanded:
        packing += f", expanded to {facts.dtype} here, which is faster on a CPU"
    memory = f"{_size(facts.weight_bytes)} for the weights"
    if facts.cache_bytes_per_token is not None:
        per_call = facts.cache_bytes_per_token * 1000
        memory += f", {_size(per_call)} for each 1,000 tokens of a running call"
    offer = f"{_size(facts.memory_bytes)} ({'enough' if facts.fits else 'too little'})"
    return [
        ("folder", str(facts.folder)),
        ("architecture", facts.architecture),
        ("parameters", f"{facts.parameters:,}"),
        ("files", _size(facts.file_bytes)),
        ("quantization", packing),
        ("context", f"{facts.context:,} tokens" if facts.context else "not said"),
        ("vocabulary", f"{facts.vocabulary:,} tokens" if facts.vocabulary else "not said"),
        ("chat template", "its own" if facts.template == "own" else "none: plain lines are used"),
        ("runs on", f"{facts.device}, {facts.dtype}"),
        ("memory needed", memory),
        ("memory here", offer),
        ("calls share", facts.sharing),
        ("model string", facts.model_string),
    ]


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, str | int | float | bool | None) else str(value)
        for key, value in record.items()
    }


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
