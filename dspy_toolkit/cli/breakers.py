"""`dspy-tk breakers`: look at circuits that keep their state in files, and turn them by hand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.options import Json
from dspy_toolkit.cli.output import out_json, say, table

app = typer.Typer(help="Look at circuit breakers, open and close them.", no_args_is_help=True)

Folder = Annotated[
    Path | None,
    typer.Option(help="Where their states lie; <home>/breakers if left out."),
]
Name = Annotated[str, typer.Argument(metavar="ENGINE", help="The engine's name in its policy.")]


@app.command("list")
def list_command(folder: Folder = None, json: Json = False) -> None:
    """List the circuits that have a state on disk.

    Example: dspy-tk breakers list
    """
    from dspy_toolkit.resilience.storage import kept_states

    states = kept_states(_place(folder))
    now = time.time()
    if json:
        out_json({"breakers": [_facts(state, now) for state in states]})
        return
    if not states:
        say(f"no circuit has a state in {_place(folder)}")
        return
    rows = [(state.engine, state.state, _since(state.opened_at, now)) for state in states]
    table("", ("engine", "state", "opened"), rows)


@app.command()
def show(engine: Name, folder: Folder = None, json: Json = False) -> None:
    """Show one circuit.

    Example: dspy-tk breakers show local
    """
    from dspy_toolkit.resilience.storage import kept_state

    state = kept_state(_place(folder), engine)
    now = time.time()
    if json:
        out_json(_facts(state, now))
        return
    table("", ("engine", "state", "opened"), [(engine, state.state, _since(state.opened_at, now))])


@app.command("open")
def open_command(engine: Name, folder: Folder = None) -> None:
    """Open a circuit by hand: its engine is left alone until the policy's time has passed.

    A running server sees it at its next call.

    Example: dspy-tk breakers open local
    """
    _turn(engine, folder, "open")


@app.command("close")
def close_command(engine: Name, folder: Folder = None) -> None:
    """Close a circuit by hand: calls reach its engine again.

    Example: dspy-tk breakers close local
    """
    _turn(engine, folder, "closed")


def _turn(engine: str, folder: Path | None, state: str) -> None:
    from dspy_toolkit.resilience.storage import turn_state

    turn_state(_place(folder), engine, state)
    say(f"the circuit of {engine} is {state}")


def _place(folder: Path | None) -> Path:
    from dspy_toolkit.config import load_settings

    return load_settings().home / "breakers" if folder is None else folder


def _facts(state: Any, now: float) -> dict[str, Any]:
    opened = None if state.opened_at is None else state.opened_at.isoformat("T", "seconds")
    return {"engine": state.engine, "state": state.state, "opened_at": opened}


def _since(opened_at: Any, now: float) -> str:
    return "-" if opened_at is None else f"{max(now - opened_at.timestamp(), 0.0):.0f} s ago"
