"""Help that flows: a paragraph of a docstring becomes one line, which the terminal breaks."""

from __future__ import annotations

import inspect

import typer


def flowing(app: typer.Typer) -> typer.Typer:
    """Give every command, those of groups too, the text of its docstring as its help."""
    for command in app.registered_commands:
        if command.help is None and command.callback is not None:
            command.help = _flowed(inspect.getdoc(command.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flowing(group.typer_instance)
    return app


def _flowed(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
