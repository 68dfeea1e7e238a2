"""`dspy-tk serve`: models and programs over HTTP."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from dspy_toolkit.cli.output import say

if TYPE_CHECKING:
    from dspy_toolkit.config import Settings
    from dspy_toolkit.events import Event
    from dspy_toolkit.server import (
        Awaited,
        Catalog,
        Door,
        Listening,
        PredictionCache,
        ServedModel,
    )


def serve_command(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Artifact folders, deployments, or models (embedded, a folder, a hub id); "
            "NAME=WHAT serves it under another name. Without any: every deployment that has a "
            "production version."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Ask nobody on this machine for a key.")
    ] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Never give a program's answer again.")
    ] = False,
    cache_ttl_s: Annotated[
        float, typer.Option(help="How long an answer may be given again.")
    ] = 300.0,
    cache_mib: Annotated[int, typer.Option(min=1, help="Most room for answers, in MiB.")] = 64,
    requests: Annotated[int, typer.Option(min=1, help="Most requests in work at once.")] = 256,
    body_mib: Annotated[int, typer.Option(min=1, help="Largest body, in MiB.")] = 4,
    drain_s: Annotated[
        float, typer.Option(min=0, help="How long running requests may take to end at a stop.")
    ] = 30.0,
) -> None:
    """Serve models and compiled programs: OpenAI's interface, and a typed path for each program.

    Deployments follow their production alias: a promoted version answers new requests while
    running ones end on the old. Ctrl-C or SIGTERM lets running requests end, then stops.

    Example: dspy-tk serve embedded triage=./artifact --port 8000
    """
    from dspy_toolkit.config import load_settings
    from dspy_toolkit.server import Door, Keys, Listening, PredictionCache
    from dspy_toolkit.server.gateway import LOCAL_HOSTS, MIB, needs_keys
    from dspy_toolkit.server.keys import FILE
    from dspy_toolkit.server.running import keys_for

    settings = load_settings()
    asked_for = keys_for(host, Keys(settings.home / FILE), no_keys)
    door = Door(
        keys=asked_for,
        hosts=None if needs_keys(host) else LOCAL_HOSTS,
        body_bytes=body_mib * MIB,
        requests=requests,
    )
    cache = None if no_cache else PredictionCache(cache_ttl_s, cache_mib * MIB)
    listening = Listening(host, port, drain_s)
    asyncio.run(_serve(what or [], settings, door, cache, listening))


async def _serve(
    what: list[str],
    settings: Settings,
    door: Door,
    cache: PredictionCache | None,
    listening: Listening,
) -> None:
    from dspy_toolkit.events import subscribed
    from dspy_toolkit.monitoring import Metrics
    from dspy_toolkit.server import Catalog, CatalogHealth, Server, Service, create_app
    from dspy_toolkit.server.running import filled

    catalog, metrics = Catalog(), Metrics()
    health = CatalogHealth(catalog)
    awaited = _awaited(what, settings, catalog)
    server = Server(
        create_app(Service(catalog, health.check, metrics.exposition, cache), door), listening
    )

    def up() -> None:
        keys = "keys needed" if door.keys is not None else "no keys needed"
        say(f"serving on http://{listening.host}:{server.port} ({keys}); see /docs")

    def failed(name: str, reason: str) -> None:
        say(f"{name} is not served: {reason}")

    with ExitStack() as around:
        for handler in (metrics, health, _Remarks()):
            around.enter_context(subscribed(handler))
        around.enter_context(metrics.watching(health.samples))
        around.callback(catalog.close)
        around.enter_context(server.on_signals())
        async with filled(catalog, awaited, failed):
            await server.run(up)
    say("stopped")


def _awaited(what: list[str], settings: Settings, catalog: Catalog) -> list[Awaited]:
    from dspy_toolkit.errors import InvalidInput

    found = [_one(each, settings) for each in what]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"two things would be served as {name!r}; write OTHER=WHAT for one")
    if not found:
        raise InvalidInput("nothing to serve; name an artifact folder or a model")
    return found


def _one(given: str, settings: Settings) -> Awaited:
    from pathlib import Path

    from dspy_toolkit.server import Awaited

    name, equals, what = given.partition("=")
    if not equals:
        name, what = "", given
    folder = Path(what).expanduser()
    if (folder / "program.json").is_file():
        from dspy_toolkit.programs.artifact import load_artifact
        from dspy_toolkit.programs.served import open_program, version_of

        artifact = load_artifact(folder)
        called = name or str(artifact.manifest.get("task") or folder.name)
        version = version_of(artifact)
        return Awaited(called, lambda: open_program(artifact, called, version, settings))
    called = name or (folder.name if folder.is_dir() else what)
    return Awaited(called, lambda: _model(called, what, settings))


def _model(name: str, reference: str, settings: Settings) -> ServedModel:
    from dspy_toolkit.engine import EngineOptions, open_engine
    from dspy_toolkit.server import ServedModel

    return ServedModel.over(name, open_engine(reference, EngineOptions(), settings))


class _Remarks:
    """Tells the person at the terminal what happens to versions and broken requests."""

    def __call__(self, event: Event) -> None:
        from dspy_toolkit.events import RequestBroken, VersionRefused, VersionSwitched

        match event:
            case VersionSwitched(program, before, after):
                say(f"{program}: version {after} answers" + (f", after {before}" if before else ""))
            case VersionRefused(program, version, reason):
                say(f"{program}: version {version} is refused: {reason}")
            case RequestBroken(request, error):
                say(f"request {request} broke: {error}")
