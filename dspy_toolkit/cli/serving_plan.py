"""From what a user names to what a server opens and follows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dspy_toolkit.config import Settings
from dspy_toolkit.deployment import Deployments, Follower
from dspy_toolkit.engine import EngineOptions
from dspy_toolkit.engine.source import HUB_ID, find_source, read_config
from dspy_toolkit.errors import InvalidInput, NotFound, nearest
from dspy_toolkit.programs.artifact import load_artifact
from dspy_toolkit.programs.ensemble import COMBINERS, Ensemble
from dspy_toolkit.programs.served import LoadedProgram, open_program, version_of
from dspy_toolkit.programs.shelf import Shelf
from dspy_toolkit.programs.supervised import model_engine
from dspy_toolkit.server import Awaited, ServedModel


@dataclass(frozen=True)
class Plan:
    """What is opened once, and which deployments are followed."""

    awaited: tuple[Awaited, ...]
    followers: tuple[Follower, ...]

    @property
    def names(self) -> list[str]:
        """What callers will know it all by."""
        return [*(each.name for each in self.awaited), *(each.name for each in self.followers)]


def make_plan(what: list[str], ensembles: list[str], settings: Settings, shelf: Shelf) -> Plan:
    """Find out what is meant.

    Args:
        what: artifact folders, deployments or models, each perhaps as NAME=WHAT; without any, and
            without ensembles, every deployment that has a production version.
        ensembles: NAME=COMBINER:MEMBER,MEMBER.
        shelf: where followed deployments go.

    Raises:
        InvalidInput: nothing is left to serve, or two things have one name.
        NotFound, IntegrityError: an artifact or deployment is missing or damaged.
    """
    deployments = Deployments(settings)
    awaited: list[Awaited] = []
    followers: list[Follower] = []
    for given in what if what or ensembles else _in_production(deployments):
        name, meant = _parted(given)
        if meant in deployments.names and not _is_folder(meant):
            followers.append(Follower(deployments.find(meant), shelf, settings, name))
        else:
            awaited.append(_awaited(name, meant, deployments, settings))
    awaited += [_ensemble(each, deployments, settings) for each in ensembles]
    plan = Plan(tuple(awaited), tuple(followers))
    for each in plan.names:
        if plan.names.count(each) > 1:
            raise InvalidInput(f"two things would be served as {each!r}; write OTHER=WHAT for one")
    if not plan.names:
        raise InvalidInput(
            "nothing to serve: no deployment has a production version; name an artifact folder "
            "or a model, or promote a version with `dspy-tk deploy promote`"
        )
    return plan


def with_whole_paths(given: str) -> str:
    """What `make_plan` takes, in a form that means the same from any folder."""
    name, meant = _parted(given)
    if not _is_folder(meant):
        return given
    whole = _whole(meant)
    # Without a name before it, the folder's own "=" would end one.
    return f"{name or ''}={whole}" if name or "=" in whole else whole


def ensemble_with_whole_paths(given: str) -> str:
    """An ensemble that `make_plan` takes, in a form that means the same from any folder.

    Raises:
        InvalidInput: the whole path of a member holds a comma.
    """
    name, combiner, members = _parted_ensemble(given)
    whole = [_whole(each) if _is_artifact(each) else each for each in members]
    for each in whole:
        if "," in each:
            raise InvalidInput(
                f"the ensemble's member {each} holds a comma, which parts members; move the folder"
            )
    return f"{name}={combiner}:{','.join(whole)}"


def _parted(given: str) -> tuple[str | None, str]:
    """Name, if there is one, and what is meant."""
    name, equals, meant = given.partition("=")
    # A path may hold an "=" itself; what is called like one could not be asked for by its name.
    if not equals or os.sep in name or name.startswith((".", "~")):
        return None, given
    return name or None, meant


def _parted_ensemble(given: str) -> tuple[str, str, list[str]]:
    """Name, combiner and members."""
    name, _, rest = given.partition("=")
    combiner, _, listed = rest.partition(":")
    return name, combiner, [each for each in listed.split(",") if each]


def _is_folder(what: str) -> bool:
    """Whether a folder is meant: a path, or the name of one that can be served.

    A task's folder often has the name of its deployment, and is not what is meant by it.
    """
    folder = Path(what).expanduser()
    written_as_path = os.sep in what or what.startswith((".", "~"))
    can_be_served = _is_artifact(what) or (folder / "config.json").is_file()
    return folder.is_dir() and (written_as_path or can_be_served)


def _whole(folder: str) -> str:
    return str(Path(folder).expanduser().resolve())


def _in_production(deployments: Deployments) -> list[str]:
    found = [deployments.find(name) for name in deployments.names]
    return [each.name for each in found if "production" in each.aliases().versions]


def _awaited(name: str | None, what: str, deployments: Deployments, settings: Settings) -> Awaited:
    folder = Path(what).expanduser()
    if _is_artifact(what):
        called = name or str(load_artifact(folder).manifest.get("task") or folder.name)
        return Awaited(called, partial(_program, called, folder, settings))
    # A hub id may still be fetched; anything else has to be here.
    if not HUB_ID.fullmatch(what) or folder.exists():
        try:
            read_config(find_source(what).folder)
        except NotFound as error:
            known = deployments.names
            hint = f"; if a deployment is meant: {nearest(what, known)}" if known else ""
            raise NotFound(f"{error}{hint}") from None
    called = name or (folder.name if folder.is_dir() else what)
    return Awaited(called, partial(_model, called, what, settings))


def _ensemble(given: str, deployments: Deployments, settings: Settings) -> Awaited:
    name, combiner, members = _parted_ensemble(given)
    if not name or not members:
        raise InvalidInput(
            "--ensemble is NAME=COMBINER:MEMBER,MEMBER, for example "
            f"best=vote:triage@1,triage@2; got {given!r}"
        )
    if combiner not in COMBINERS:
        raise InvalidInput(f"combiner {combiner!r} does not exist; {nearest(combiner, COMBINERS)}")

    for member in members:
        _check_member(member, deployments)

    def opened() -> Ensemble:
        programs: list[LoadedProgram] = []
        try:
            programs.extend(_member(each, deployments, settings) for each in members)
            return Ensemble(name, programs, combiner)
        except BaseException:
            for each in programs:
                each.close()
            raise

    return Awaited(name, opened)


def _member(given: str, deployments: Deployments, settings: Settings) -> LoadedProgram:
    if _is_artifact(given):
        return _program(Path(given).name, Path(given).expanduser(), settings)
    name, _, version = given.partition("@")
    return deployments.find(name).bundle(version or "production").open(settings)


def _check_member(given: str, deployments: Deployments) -> None:
    if _is_artifact(given):
        return
    name, _, version = given.partition("@")
    if name not in deployments.names:
        raise InvalidInput(
            f"the ensemble's member {given!r} is neither an artifact folder nor a deployment; "
            f"{nearest(name, deployments.names)}"
        )
    deployments.find(name).resolve(version or "production")


def _is_artifact(what: str) -> bool:
    return (Path(what).expanduser() / "program.json").is_file()


def _program(name: str, folder: Path, settings: Settings) -> LoadedProgram:
    artifact = load_artifact(folder)
    return open_program(artifact, name, version_of(artifact), settings)


def _model(name: str, reference: str, settings: Settings) -> ServedModel:
    return ServedModel.over(name, model_engine(reference, EngineOptions(), settings))
