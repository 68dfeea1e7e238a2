"""`dspy-tk deploy`: versions of programs, and where they run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.deploy_report import difference_rows, percent, version_rows
from dspy_toolkit.cli.options import Json
from dspy_toolkit.cli.output import out, out_json, say, table
from dspy_toolkit.config import load_settings

if TYPE_CHECKING:
    from dspy_toolkit.deployment import Deployment, Deployments

app = typer.Typer(no_args_is_help=True, help="Push, promote, roll back and move versions.")

Name = Annotated[str, typer.Argument(help="A deployment, see `dspy-tk deploy list`.")]
Version = Annotated[
    str, typer.Argument(help="production, candidate, a version, its number or its digest.")
]


@app.command("push")
def push(
    artifact: Annotated[Path, typer.Argument(help="A folder that `compile` made.")],
    name: Annotated[str, typer.Option(help="The deployment, new or not.")],
    weights: Annotated[
        bool | None,
        typer.Option(
            "--weights/--no-weights",
            help="Copy the model's files too; by default only those of a folder are.",
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="How calls are guarded and who stands in, as TOML.")
    ] = None,
    smoke: Annotated[
        str | None,
        typer.Option(help="Inputs, as JSON, that it must answer before it is ever served."),
    ] = None,
    note: Annotated[str, typer.Option(help="For people.")] = "",
    json: Json = False,
) -> None:
    """Make an immutable version of a compiled program, try it, and call it the candidate.

    Example: dspy-tk deploy push ./artifact --name triage
    """
    from dspy_toolkit.deployment import PushOptions

    settings = load_settings()
    options = PushOptions(weights, policy, None if smoke is None else _inputs(smoke), note)
    deployment = _deployments().named(name)
    bundle, new = deployment.push(artifact, settings, options)
    if json:
        out_json({**bundle.facts(), "new": new})
        return
    say(f"{name} {bundle.version} " + ("is the candidate now" if new else "is there already"))
    say(f"next: dspy-tk deploy promote {name}")


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="Only this deployment's versions.")] = None,
    json: Json = False,
) -> None:
    """List deployments, or the versions of one.

    Example: dspy-tk deploy list triage
    """
    from dspy_toolkit.deployment.store import ALIASES

    deployments = _deployments()
    if name is None:
        rows = [_summary(deployments.find(each)) for each in deployments.names]
        if json:
            out_json({"deployments": rows})
            return
        if not rows:
            say("no deployment yet; make one with `dspy-tk deploy push ARTIFACT --name NAME`")
            return
        table(
            "",
            ("name", "versions", "production", "candidate"),
            [
                (r["name"], len(r["versions"]), r["production"] or "-", r["candidate"] or "-")
                for r in rows
            ],
        )
        _say_damaged(rows)
        return
    deployment = deployments.find(name)
    summary = _summary(deployment)
    facts = []
    for version in deployment.versions:
        pointing = [alias for alias in ALIASES if summary[alias] == version]
        facts.append({**_facts(deployment, version), "aliases": pointing})
    if json:
        out_json(facts)
        return
    table(
        "",
        ("version", "aliases", "score", "optimizer", "created", "note"),
        [
            (
                each["version"],
                " ".join(each["aliases"]),
                percent(each.get("score")),
                each.get("optimizer") or "-",
                each.get("created") or "-",
                each.get("note", "damaged"),
            )
            for each in facts
        ],
    )
    _say_damaged([summary, *facts])


@app.command("show")
def show(
    name: Name,
    version: Annotated[
        str | None,
        typer.Argument(
            help="production, candidate, a version, its number or its digest; the first two in "
            "this order if left out."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show a version and check every file of it.

    Example: dspy-tk deploy show triage candidate
    """
    deployment = _deployments().find(name)
    in_production = "production" in deployment.aliases().versions
    bundle = deployment.bundle(version or ("production" if in_production else "candidate"))
    moves = [vars(each) for each in deployment.aliases().moves]
    facts = {**bundle.facts(), "moves": [m for m in moves if m["after"] == bundle.version]}
    if json:
        out_json(facts)
        return
    for key, value in version_rows(facts):
        out(f"{key}: {value}")


@app.command("promote")
def promote_command(
    name: Name,
    version: Version = "candidate",
    to: Annotated[str, typer.Option(help="production or candidate.")] = "production",
    anyway: Annotated[
        str | None, typer.Option(help="A reason to pass a gate that says no; it is kept.")
    ] = None,
    json: Json = False,
) -> None:
    """Point an alias to a version. Into production only a better one goes.

    Running servers switch within a second; no request is dropped or answered by two versions.

    Example: dspy-tk deploy promote triage
    """
    from dspy_toolkit.deployment import promote

    _told(promote(_deployments().find(name), version, to, anyway), json)


@app.command("rollback")
def rollback_command(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "asked for",
    json: Json = False,
) -> None:
    """Put the version before into production again; once more goes one further back.

    Example: dspy-tk deploy rollback triage --reason "wrong team for refunds"
    """
    from dspy_toolkit.deployment import rollback

    _told(rollback(_deployments().find(name), reason), json)


@app.command("diff")
def diff(
    name: Name, first: Version = "production", second: Version = "candidate", json: Json = False
) -> None:
    """Show what two versions have different: prompt, demonstrations, model, scores, policy.

    Example: dspy-tk deploy diff triage 1 2
    """
    from dspy_toolkit.deployment import differences

    deployment = _deployments().find(name)
    one, other = deployment.bundle(first), deployment.bundle(second)
    found = differences(one, other)
    if json:
        shown = {key: list(pair) for key, pair in found.items()}
        out_json({"first": one.version, "second": other.version, "differences": shown})
        return
    rows = difference_rows(found)
    if not rows:
        say(f"{one.version} and {other.version} do not differ")
        return
    table("", ("what", one.version, other.version), rows)


@app.command("export")
def export(
    name: Name,
    version: Version = "production",
    to: Annotated[
        Path,
        typer.Option(
            help="A file, where it ends in .tar.gz; else a folder, in which it is called "
            "NAME-VERSION.tar.gz. By default this one."
        ),
    ] = Path(),
    json: Json = False,
) -> None:
    """Write a version as one file.

    Example: dspy-tk deploy export triage --to backup/
    """
    from dspy_toolkit.deployment import export_bundle

    file = export_bundle(_deployments().find(name).bundle(version), to)
    if json:
        out_json({"file": str(file)})
        return
    out(str(file))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that `deploy export` made.")],
    name: Annotated[str | None, typer.Option(help="The deployment it goes to.")] = None,
    most_gib: Annotated[float, typer.Option(help="Most room it may take unpacked.")] = 64.0,
    json: Json = False,
) -> None:
    """Unpack a version, check it, and call it the candidate. None of its code is run.

    Example: dspy-tk deploy import triage-3-1a2b3c4d.tar.gz
    """
    from dspy_toolkit.deployment import import_bundle
    from dspy_toolkit.deployment.archive import GIB

    bundle = import_bundle(file, _deployments(), name, int(most_gib * GIB))
    if json:
        out_json(bundle.facts())
        return
    say(f"{bundle.name} {bundle.version} is the candidate now")


@app.command("gc")
def gc(
    name: Name,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest stay.")] = 5,
    json: Json = False,
) -> None:
    """Remove old versions that no alias points to and no rollback would need.

    Example: dspy-tk deploy gc triage --keep 3
    """
    removed = _deployments().find(name).collect(keep)
    if json:
        out_json({"removed": list(removed)})
        return
    say(f"removed {', '.join(removed)}" if removed else "nothing to remove")


@app.command("unit")
def unit(
    what: Annotated[
        list[str] | None, typer.Argument(help="What to serve, as for `dspy-tk serve`.")
    ] = None,
    ensemble: Annotated[
        list[str] | None, typer.Option(help="Several as one, as for `dspy-tk serve`.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="systemd or launchd; this system's by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    user: Annotated[
        str | None, typer.Option(help="Who runs it, for a systemd of the whole system.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="File to write; stdout by default.")] = None,
) -> None:
    """Write the file that has this system run a server: systemd, or launchd on a Mac.

    What is named has to be there, and a key where other machines can call. Folders are written
    with their whole path.

    Example: dspy-tk deploy unit triage --port 8000 --to ~/.config/systemd/user/dspy-tk.service
    """
    from dspy_toolkit.cli.serving_plan import (
        ensemble_with_whole_paths,
        make_plan,
        with_whole_paths,
    )
    from dspy_toolkit.deployment import Unit, write_unit
    from dspy_toolkit.programs.shelf import Shelf
    from dspy_toolkit.server.keys import FILE, Keys
    from dspy_toolkit.server.running import keys_for
    from dspy_toolkit.store.files import refuse_existing, write_text

    settings = load_settings()
    keys_for(host, Keys(settings.home / FILE), open_to_all=False)
    if user is not None:
        _check_user(user)
    if what or ensemble:
        make_plan(what or [], ensemble or [], settings, Shelf())
    served = [with_whole_paths(each) for each in what or []]
    for each in ensemble or []:
        served += ["--ensemble", ensemble_with_whole_paths(each)]
    command = [str(Path(sys.argv[0]).resolve()), "serve", *served]
    command += ["--host", host, "--port", str(port)]
    text = write_unit(Unit(command, settings.home, user), kind)
    if to is None:
        out(text.rstrip("\n"))
        return
    refuse_existing(to)
    write_text(to, text)
    say(f"wrote {to}")


def _check_user(name: str) -> None:
    import pwd

    from dspy_toolkit.errors import NotFound

    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise NotFound(f"no user of this machine is called {name!r}; make one first") from None


def _deployments() -> Deployments:
    from dspy_toolkit.deployment import Deployments

    return Deployments(load_settings())


def _summary(deployment: Deployment) -> dict[str, Any]:
    from dspy_toolkit.errors import IntegrityError

    aliases: Mapping[str, str] = {}
    damage = None
    try:
        aliases = deployment.aliases().versions
    except IntegrityError as error:
        damage = str(error)
    return {
        "name": deployment.name,
        "versions": list(deployment.versions),
        "production": aliases.get("production"),
        "candidate": aliases.get("candidate"),
        "damage": damage,
    }


def _facts(deployment: Deployment, version: str) -> dict[str, Any]:
    from dspy_toolkit.errors import IntegrityError, NotFound

    try:
        return deployment.bundle(version).facts()
    except (IntegrityError, NotFound) as error:
        return {"name": deployment.name, "version": version, "damage": str(error)}


def _say_damaged(rows: list[dict[str, Any]]) -> None:
    for each in rows:
        if each.get("damage"):
            say(f"damaged: {each['damage']}")


def _told(moved: dict[str, Any], json: bool) -> None:
    if json:
        out_json(moved)
        return
    before = f", before {moved['before']}" if moved["before"] else ""
    say(f"{moved['name']} {moved['alias']}: {moved['after']}{before} ({moved['reason']})")


def _inputs(text: str) -> dict[str, Any]:
    from dspy_toolkit.errors import InvalidInput
    from dspy_toolkit.store.files import parse_json

    values = parse_json(text, "--smoke")
    if not isinstance(values, dict):
        raise InvalidInput("--smoke must be a JSON object of inputs")
    return values
