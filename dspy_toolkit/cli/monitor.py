"""`dspy-tk monitor`: what a running server does, live."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.options import Json, KeyFile, read_key
from dspy_toolkit.cli.output import grid, out_json, screen
from dspy_toolkit.errors import EngineError

if TYPE_CHECKING:
    from rich.table import Table

    from dspy_toolkit.monitoring.overview import Overview, Scrape

_TABLES: dict[str, tuple[str, ...]] = {
    "programs": (
        "program",
        "version",
        "requests",
        "requests_per_s",
        "error_share",
        "p50_s",
        "p95_s",
        "first_token_p50_s",
    ),
    "models": (
        "model",
        "calls",
        "calls_per_s",
        "error_share",
        "cache_hit_share",
        "first_token_p95_s",
        "output_tokens_per_s",
        "reused_share",
        "forced_share",
        "running",
        "batch_rows",
        "memory_bytes",
    ),
    "engines": (
        "engine",
        "breaker",
        "attempts",
        "error_share",
        "p95_s",
        "retries",
        "fallbacks",
        "shed",
        "timeouts",
        "running",
        "queued",
    ),
    "processes": ("engine", "up", "restarts", "start_s"),
}


def monitor_command(
    url: Annotated[str, typer.Argument(help="A running server.")] = "http://127.0.0.1:8000",
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, then end.")] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Show a server's programs, models, engines and processes, until Ctrl-C.

    Rates and quantiles are of the time between two looks; with --once, since its start.

    Example: dspy-tk monitor http://127.0.0.1:8000 --once --json
    """
    key = read_key(key_file)
    if once:
        from dspy_toolkit.monitoring.overview import overview

        seen = overview(_look(url, key))
        if json:
            out_json(seen.to_dict())
        else:
            with screen(live=False) as show:
                show(_tables(url, seen))
        return
    _follow(url, key, every, json)


def _follow(url: str, key: str | None, every_s: float, json: bool) -> None:
    from dspy_toolkit.monitoring.overview import overview

    before = _look(url, key)
    with screen(live=not json) as show:
        if not json:
            show(_tables(url, overview(before)))
        while True:
            time.sleep(every_s)
            try:
                now = _look(url, key)
            except EngineError as error:
                # A server that is started again is looked at again.
                if json:
                    raise
                show([grid("", ("server", "error"), [(url, error)])])
                continue
            seen = overview(now, before)
            before = now
            if json:
                out_json(seen.to_dict())
            else:
                show(_tables(url, seen))


def _look(url: str, key: str | None) -> Scrape:
    from dspy_toolkit.monitoring.asking import ask_metrics
    from dspy_toolkit.monitoring.overview import read_scrape

    return read_scrape(ask_metrics(url, key), time.monotonic())


def _tables(url: str, seen: Overview) -> list[Table]:
    span = "since its start" if seen.seconds is None else f"the last {seen.seconds:.0f} s"
    memory = _shown("memory_bytes", seen.process["memory_bytes"])
    threads = _shown("threads", seen.process["threads"])
    made = [grid("", ("server", "numbers of", "memory", "threads"), [(url, span, memory, threads)])]
    rows: dict[str, Sequence[Mapping[str, Any]]] = seen.to_dict()
    for name, columns in _TABLES.items():
        if rows[name]:
            heads = [_head(column) for column in columns]
            cells = [[_shown(column, row[column]) for column in columns] for row in rows[name]]
            made.append(grid(name, heads, cells))
    return made


def _head(column: str) -> str:
    if column.endswith("_per_s"):
        return column.removesuffix("_per_s").replace("_", " ") + " /s"
    for unit in ("_s", "_bytes"):
        column = column.removesuffix(unit)
    return column.replace("_", " ")


def _shown(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if column.endswith("_share"):
        return f"{100 * value:.1f} %"
    if column.endswith("_bytes"):
        return f"{value / 1e9:.2f} GB"
    if column.endswith("_per_s"):
        return f"{value:.2f}"
    if column.endswith("_s"):
        return f"{value:.3f} s"
    return f"{value:.1f}" if column == "batch_rows" else f"{value:.0f}"
