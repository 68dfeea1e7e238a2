"""`dspy-tk health`: is the server, or the model here, really able to answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dspy_toolkit.cli.options import Adapter, Json, KeyFile, Model, read_key
from dspy_toolkit.cli.output import out_json, table

if TYPE_CHECKING:
    from dspy_toolkit.monitoring import HealthReport


def health_command(
    url: Annotated[
        str | None,
        typer.Argument(help="A running server, such as http://127.0.0.1:8000; none: the model."),
    ] = None,
    level: Annotated[
        str, typer.Option(help="live, ready, or deep: a token is really generated.")
    ] = "deep",
    model: Model = None,
    adapter: Adapter = None,
    key_file: KeyFile = None,
    patience: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a token.")] = 30.0,
    json: Json = False,
) -> None:
    """Say whether a server, or the model on this machine, is well; exit code 1 if it is not.

    Example: dspy-tk health http://127.0.0.1:8000 --level ready
    """
    if url is None:
        report = _of_model(model, adapter, level, patience)
    else:
        from dspy_toolkit.monitoring.asking import ask_health

        report = ask_health(url, level, read_key(key_file), timeout_s=patience)
    if json:
        out_json(report.to_dict())
    else:
        rows = [
            (each.subject, "well" if each.ok else "not well", each.reason)
            for each in report.findings
        ]
        table(f"{report.level}: {'well' if report.ok else 'not well'}", ("what", "", "why"), rows)
    if not report.ok:
        raise typer.Exit(1)


def _of_model(
    model: str | None, adapter: Path | None, level: str, patience_s: float
) -> HealthReport:
    from dspy_toolkit.config import load_settings
    from dspy_toolkit.engine import EngineOptions, open_engine
    from dspy_toolkit.monitoring import Health
    from dspy_toolkit.monitoring.health import known_level

    known_level(level)
    settings = load_settings({"model": model})
    engine = open_engine(settings.model, EngineOptions(adapter=adapter), settings)
    try:
        return Health({engine.model_string: engine}, patience_s=patience_s).check(level)
    finally:
        engine.close()
