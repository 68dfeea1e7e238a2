"""`dspy-tk monitor`: what a running server does, live."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.options import Json, KeyFile, read_key
from dspy_toolkit.cli.output import facts, out_json, screen
from dspy_toolkit.errors import EngineError

if TYPE_CHECKING:
    from rich.console import Group

    from dspy_toolkit.monitoring.overview import Overview, Scrape

# By kind: the word for one, what holds its name, and its values with their labels.
_FACTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "programs": (
        "program",
        "program",
        {
            "requests": "requests",
            "requests_per_s": "per s",
            "error_share": "errors",
            "p50_s": "p50",
            "p95_s": "p95",
            "first_token_p50_s": "first p50",
        },
    ),
    "models": (
        "model",
        "model",
        {
            "calls": "calls",
            "calls_per_s": "per s",
            "error_share": "errors",
            "cache_hit_share": "cached",
            "first_token_p95_s": "first p95",
            "output_tokens_per_s": "tokens/s",
            "reused_share": "reused",
            "forced_share": "forced",
            "running": "running",
            "batch_rows": "batch rows",
            "memory_bytes": "memory",
        },
    ),
    "engines": (
        "engine",
        "engine",
        {
            "breaker": "breaker",
            "attempts": "attempts",
            "error_share": "errors",
            "p95_s": "p95",
            "retries": "retries",
            "fallbacks": "fallbacks",
            "shed": "shed",
            "timeouts": "timeouts",
            "running": "running",
            "queued": "queued",
        },
    ),
    "processes": ("process of", "engine", {"up": "up", "restarts": "restarts", "start_s": "start"}),
}
_SERVER = {"memory_bytes": "memory", "threads": "threads", "file_handles": "files"}


def monitor_command(
    url: Annotated[str, typer.Argument(help="A running server.")] = "http://127.0.0.1:8000",
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, then end.")] = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Show a server's programs, models, engines and processes, until Ctrl-C.

    Rates and quantiles are of the time between two looks; with --once, since its start. "first"
    is the time to the first token of an answer.

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
                show(_parts(url, seen))
        return
    _follow(url, key, every, json)


def _follow(url: str, key: str | None, every_s: float, json: bool) -> None:
    from dspy_toolkit.monitoring.overview import overview

    before = _look(url, key)
    with screen(live=not json) as show:
        if not json:
            show(_parts(url, overview(before)))
        while True:
            time.sleep(every_s)
            try:
                now = _look(url, key)
            except EngineError as error:
                # A server that is started again is looked at again.
                if json:
                    raise
                show([facts(url, [("error", str(error))])])
                continue
            seen = overview(now, before)
            before = now
            if json:
                out_json(seen.to_dict())
            else:
                show(_parts(url, seen))


def _look(url: str, key: str | None) -> Scrape:
    from dspy_toolkit.monitoring.asking import ask_metrics
    from dspy_toolkit.monitoring.overview import read_scrape

    return read_scrape(ask_metrics(url, key), time.monotonic())


def _parts(url: str, seen: Overview) -> list[Group]:
    span = "since its start" if seen.seconds is None else f"the last {seen.seconds:.0f} s"
    own = [(label, _shown(key, seen.process[key])) for key, label in _SERVER.items()]
    made = [facts(f"{url}, {span}", own)]
    rows: dict[str, Sequence[Mapping[str, Any]]] = seen.to_dict()
    for name, (word, who, labels) in _FACTS.items():
        for row in rows[name]:
            version = f", version {row['version']}" if row.get("version") else ""
            values = ((label, _shown(key, row[key])) for key, label in labels.items())
            made.append(facts(f"{word} {row[who]}{version}", values))
    return made


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if key.endswith("_share"):
        return f"{100 * value:.1f} %"
    if key.endswith("_bytes"):
        return f"{value / 1e9:.2f} GB"
    if key.endswith("_per_s"):
        return f"{value:.2f}"
    if key.endswith("_s"):
        return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"
    return f"{value:.1f}" if key == "batch_rows" else f"{value:.0f}"
