"""`dspy-tk keys`: who may call a server."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.options import Json
from dspy_toolkit.cli.output import out, out_json, say, table

if TYPE_CHECKING:
    from dspy_toolkit.server.keys import KeyRecord, Keys

app = typer.Typer(no_args_is_help=True, help="Make, list and end the keys of callers.")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who it is for: a-z, 0-9, '.', '_', '-'.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="programs (the default), programs:NAME or admin; may be repeated."),
    ] = None,
    days: Annotated[
        float | None, typer.Option(help="Days until it ends; never by default.")
    ] = None,
    per_minute: Annotated[
        int | None, typer.Option(help="Requests allowed in a minute; no limit by default.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a key and print it. Only its salted hash is kept, so it is shown this once.

    Example: dspy-tk keys create ticket-robot --scope programs:triage --per-minute 600 --days 90
    """
    key, record = _keys().create(name, scope or ["programs"], days=days, per_minute=per_minute)
    for program in sorted(_not_deployed(record)):
        say(f"note: nothing is deployed as {program!r}; the key opens what is served by that name")
    if json:
        out_json({"key": key, **_shown(record)})
        return
    say(f"key {record.name!r} ({record.id}); it is shown only now:")
    out(key)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the keys, never their text.

    Example: dspy-tk keys list
    """
    records = [_shown(each) for each in _keys().list()]
    if json:
        out_json({"keys": records})
        return
    table(
        "",
        ("name", "id", "state", "scopes", "a minute", "created", "ends"),
        [
            (
                each["name"],
                each["id"],
                each["state"],
                " ".join(each["scopes"]),
                each["per_minute"] or "no limit",
                _day(each["created"]),
                _day(each["expires"]),
            )
            for each in records
        ],
    )


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name or id.")], json: Json = False
) -> None:
    """End a key for good; a running server refuses it from the next request on.

    Example: dspy-tk keys revoke ticket-robot
    """
    record = _keys().revoke(name)
    if json:
        out_json(_shown(record))
        return
    say(f"key {record.name!r} ({record.id}) is revoked")


def _keys() -> Keys:
    from dspy_toolkit.config import load_settings
    from dspy_toolkit.server.keys import FILE, Keys

    return Keys(load_settings().home / FILE)


def _not_deployed(record: KeyRecord) -> set[str]:
    from dspy_toolkit.config import load_settings
    from dspy_toolkit.deployment import Deployments

    return set(record.limited_to or ()) - set(Deployments(load_settings()).names)


def _shown(record: KeyRecord) -> dict[str, Any]:
    kept = {key: value for key, value in asdict(record).items() if key not in ("salt", "digest")}
    return {**kept, "scopes": list(record.scopes), "state": record.state(time.time())}


def _day(seconds: float | None) -> str:
    return "never" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
