"""`dspy-tk serve`: models and programs over HTTP."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from dspy_toolkit.cli.options import Supervised
from dspy_toolkit.cli.output import say

if TYPE_CHECKING:
    from dspy_toolkit.cli.serving_plan import Plan
    from dspy_toolkit.server import Catalog, Door, Listening, PredictionCache


def serve_command(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Artifact folders, deployments or models; NAME=WHAT for another name. "
            "By default all that is in production."
        ),
    ] = None,
    ensemble: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=HOW:MEMBER,MEMBER: several artifacts or versions (NAME@3) as one; HOW is "
            "vote, best_probability or first_valid.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address; any but this machine's own needs keys.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.")
    ] = 8000,
    no_keys: Annotated[
        bool, typer.Option("--no-keys", help="Ask nobody on this machine for a key.")
    ] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Never give a program's answer again.")
    ] = False,
    supervised: Supervised = None,
    cache_ttl_s: Annotated[
        float, typer.Option(metavar="S", help="How long an answer may be given again.")
    ] = 300.0,
    cache_mib: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Most room for answers.")
    ] = 64,
    requests: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most requests in work at once.")
    ] = 256,
    body_mib: Annotated[int, typer.Option(min=1, metavar="MIB", help="Largest body.")] = 4,
    drain_s: Annotated[
        float, typer.Option(min=0, metavar="S", help="Time for running requests at a stop.")
    ] = 30.0,
) -> None:
    """Serve models and compiled programs: OpenAI's interface, and a typed path for each program.

    A model is embedded, a folder, or a hub id. Deployments follow their production alias: a
    promoted version answers new requests while running ones end on the old. Ctrl-C or SIGTERM
    lets running requests end, then stops. Each model runs in a process of its own, which is
    replaced when it fails; `supervised = false` in config.toml, or --in-process, has it run in
    the server's.

    Example: dspy-tk serve embedded triage=./artifact --port 8000
    """
    from dspy_toolkit.cli.serving_plan import make_plan
    from dspy_toolkit.config import load_settings
    from dspy_toolkit.server import Catalog, Door, Keys, Listening, PredictionCache
    from dspy_toolkit.server.gateway import LOCAL_HOSTS, MIB, needs_keys
    from dspy_toolkit.server.keys import FILE
    from dspy_toolkit.server.running import keys_for, run_quickly

    settings = load_settings({"supervised": supervised}, defaults={"supervised": True})
    keys = keys_for(host, Keys(settings.home / FILE), no_keys)
    door = Door(
        keys=keys,
        keys_always=keys is not None and keys.any_active,
        hosts=None if needs_keys(host) else LOCAL_HOSTS,
        body_bytes=body_mib * MIB,
        requests=requests,
    )
    cache = None if no_cache else PredictionCache(cache_ttl_s, cache_mib * MIB)
    catalog = Catalog()
    plan = make_plan(what or [], ensemble or [], settings, catalog.shelf)
    run_quickly(_serve(plan, catalog, door, cache, Listening(host, port, drain_s)))


async def _serve(
    plan: Plan, catalog: Catalog, door: Door, cache: PredictionCache | None, listening: Listening
) -> None:
    from dspy_toolkit.cli.remarks import Remarks
    from dspy_toolkit.deployment import following
    from dspy_toolkit.errors import EngineError
    from dspy_toolkit.events import subscribed
    from dspy_toolkit.monitoring import Metrics
    from dspy_toolkit.server import CatalogHealth, Server, Service, create_app
    from dspy_toolkit.server.running import filled

    metrics, health = Metrics(), CatalogHealth(catalog)
    app = create_app(Service(catalog, health.check, metrics.exposition, cache), door)
    server = Server(app, listening)

    def up() -> None:
        keys = "keys needed" if door.keys_always else "no keys needed"
        if door.keys is not None and not door.keys_always:
            keys += " until there is one"
        say(f"serving on http://{listening.host}:{server.port} ({keys}); see /docs")

    def stopping(running: int) -> None:
        if running:
            requests = "1 request" if running == 1 else f"{running} requests"
            say(
                f"stopping: {requests} may run on for {listening.drain_s:g} s; "
                "the same signal again ends them now"
            )

    nothing_left = False

    def opened(name: str, failure: str | None) -> None:
        nonlocal nothing_left
        catalog.loading.discard(name)
        if failure is not None:
            catalog.failed[name] = failure
            say(f"{name} is not served: {failure}")
            if not (catalog.names or catalog.loading or plan.followers):
                nothing_left = True
                server.stop()

    catalog.loading |= set(plan.names)
    with ExitStack() as around:
        around.enter_context(server.bound())
        for handler in (metrics, health, Remarks()):
            around.enter_context(subscribed(handler))
        around.enter_context(metrics.watching(health.samples))
        around.callback(catalog.close)
        around.enter_context(server.on_signals(stopping))
        async with filled(catalog, plan.awaited, opened), following(plan.followers, opened):
            await server.run(up)
    if nothing_left:
        raise EngineError("nothing is left to serve: all that was named failed, as said above")
    say("stopped")
