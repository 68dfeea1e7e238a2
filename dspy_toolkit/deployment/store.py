"""Deployments of a home: names, their versions, and what their aliases point to."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dspy_toolkit.config import Settings
from dspy_toolkit.deployment.bundle import (
    Bundle,
    PushOptions,
    check_bundle,
    fill_bundle,
    read_bundle,
    seal_bundle,
)
from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound, nearest
from dspy_toolkit.store.files import read_json, scratch_folder, settle, write_json
from dspy_toolkit.store.lock import NAME as LOCK
from dspy_toolkit.store.lock import waiting_for

PRODUCTION, CANDIDATE = "production", "candidate"
ALIASES = (PRODUCTION, CANDIDATE)
FILE = "aliases.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]*-[0-9a-f]{8}")


@dataclass(frozen=True)
class Move:
    """One change of an alias.

    Attributes:
        at: when, in UTC.
        before, after: versions; None where there was, or is, none.
        how: "push", "promote", "rollback" or "import".
        reason: why, in words: what the gate said, or what the person did.
    """

    at: str
    alias: str
    before: str | None
    after: str | None
    how: str
    reason: str


@dataclass(frozen=True)
class Aliases:
    """What the aliases of a deployment point to, and how they came to.

    Attributes:
        versions: by alias.
        moves: every change, the oldest first.
    """

    versions: Mapping[str, str]
    moves: tuple[Move, ...] = ()

    def moved(self, alias: str, version: str | None, how: str, reason: str) -> Aliases:
        """The aliases after a change."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        before = self.versions.get(alias)
        others = {name: each for name, each in self.versions.items() if name != alias}
        versions = others if version is None else {**others, alias: version}
        move = Move(now, alias, before, version, how, reason)
        return replace(self, versions=versions, moves=(*self.moves, move))


class Deployment:
    """One name with its versions. Made by `Deployments`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    @property
    def alias_file(self) -> Path:
        """The file that servers watch."""
        return self.folder / FILE

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version, the oldest first."""
        place = self.folder / "versions"
        found = [each.name for each in place.iterdir()] if place.is_dir() else []
        return tuple(
            sorted(
                (name for name in found if _VERSION.fullmatch(name)),
                key=lambda name: (_number_of(name), name),
            )
        )

    def aliases(self) -> Aliases:
        """What the aliases point to now.

        Raises:
            IntegrityError: the file is damaged.
        """
        if not self.alias_file.is_file():
            return Aliases({})
        kept = read_json(self.alias_file, "aliases")
        try:
            return Aliases(dict(kept["versions"]), tuple(Move(**each) for each in kept["moves"]))
        except (KeyError, TypeError, ValueError):
            raise IntegrityError(
                f"{self.alias_file} is damaged; restore it, or remove it and promote again"
            ) from None

    def bundle(self, wanted: str) -> Bundle:
        """A version, checked.

        Args:
            wanted: an alias, a version, its number, or the beginning of its digest.

        Raises:
            NotFound: there is none. As `read_bundle`.
        """
        return replace(read_bundle(self.place(self.resolve(wanted))), name=self.name)

    def resolve(self, wanted: str) -> str:
        """The version that an alias, a version, its number or its digest names.

        Raises:
            NotFound: none, or more than one.
        """
        versions = self.versions
        if wanted in ALIASES:
            found = self.aliases().versions.get(wanted)
            if found is None:
                raise NotFound(
                    f"{self.name} has no {wanted} version yet; "
                    f"run `dspy-tk deploy promote {self.name} VERSION --to {wanted}`"
                )
            return found
        if wanted in versions:
            return wanted
        number = wanted.removeprefix("v")
        near = [
            each
            for each in versions
            if each.partition("-")[0] == number
            or (len(wanted) >= 4 and each.partition("-")[2].startswith(wanted))
        ]
        if len(near) != 1:
            raise NotFound(
                f"{self.name} has no version {wanted!r}; {nearest(wanted, (*versions, *ALIASES))}"
            )
        return near[0]

    def place(self, version: str) -> Path:
        """The folder of a version."""
        return self.folder / "versions" / version

    def write_aliases(self, aliases: Aliases) -> None:
        """Point the aliases elsewhere, atomically. Call it in `changing`."""
        moves = [asdict(each) for each in aliases.moves]
        write_json(
            self.alias_file, {"format": 1, "versions": dict(aliases.versions), "moves": moves}
        )

    def changing(self) -> Any:
        """A block in which no other process changes the deployment."""
        return waiting_for(self.folder, f"deployment {self.name}")

    def push(self, source: Path, settings: Settings, options: PushOptions) -> tuple[Bundle, bool]:
        """Make a version of an artifact, and the candidate; or find the version it is already.

        It is tried like a server tries it, so call this from no coroutine.

        Returns:
            The bundle, and whether it is new.

        Raises:
            As `fill_bundle`. StorageError: it cannot be written.
        """
        with self.changing(), self._kept_if_used():
            number = _number_of(self.versions[-1]) + 1 if self.versions else 1
            with scratch_folder(self.folder / "versions") as scratch:
                place = scratch / "bundle"
                place.mkdir()
                digest = fill_bundle(place, source, settings, options)
                known = next((v for v in self.versions if v.endswith(f"-{digest[:8]}")), None)
                if known is not None:
                    return self.bundle(known), False
                version = seal_bundle(place, self.name, number, digest, settings, options)
                asyncio.run(check_bundle(read_bundle(place), settings))
                settle(place, self.place(version))
            bundle = read_bundle(self.place(version))
            self.write_aliases(self.aliases().moved(CANDIDATE, version, "push", "pushed"))
        return bundle, True

    @contextmanager
    def _kept_if_used(self) -> Iterator[None]:
        """Leave no folder of a new deployment behind where nothing came of it."""
        try:
            yield
        finally:
            with suppress(OSError):
                (self.folder / "versions").rmdir()
                if not self.alias_file.exists():
                    (self.folder / LOCK).unlink()
                    self.folder.rmdir()

    def collect(self, keep: int) -> tuple[str, ...]:
        """Remove old versions that no alias points to, nor could be rolled back to.

        Args:
            keep: how many of the newest stay in any case.

        Returns:
            What was removed.
        """
        with self.changing():
            aliases = self.aliases()
            stays = {*aliases.versions.values(), *self.versions[len(self.versions) - keep :]}
            previous = previous_production(aliases)
            stays |= {previous} if previous else set()
            gone = tuple(each for each in self.versions if each not in stays)
            for version in gone:
                shutil.rmtree(self.place(version))
        return gone


class Deployments:
    """The deployments of a home."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.home / "deployments"

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every deployment that has a version, sorted."""
        if not self.folder.is_dir():
            return ()
        return tuple(
            sorted(
                each.name
                for each in self.folder.iterdir()
                if _NAME.fullmatch(each.name) and Deployment(each.name, each).versions
            )
        )

    def find(self, name: str) -> Deployment:
        """A deployment.

        Raises:
            NotFound: none is called so.
        """
        if name not in self.names:
            raise NotFound(
                f"no deployment is called {name!r}; {nearest(name, self.names)}; "
                "make one with `dspy-tk deploy push ARTIFACT --name NAME`"
            )
        return Deployment(name, self.folder / name)

    def named(self, name: str) -> Deployment:
        """A deployment that may be new.

        Raises:
            InvalidInput: no name may look so.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                f"a deployment's name is of a-z, 0-9, '_' and '-', 64 at most, got {name!r}"
            )
        return Deployment(name, self.folder / name)


def previous_production(aliases: Aliases) -> str | None:
    """The version that was in production before the present one, where one was.

    A rollback goes back over it: rolling back twice goes two versions back.
    """
    stack: list[str] = []
    for move in aliases.moves:
        if move.alias != PRODUCTION or move.after is None:
            continue
        if move.how == "rollback" and len(stack) > 1:
            stack.pop()
        elif not stack or stack[-1] != move.after:
            stack.append(move.after)
    return stack[-2] if len(stack) > 1 else None


def _number_of(version: str) -> int:
    return int(version.partition("-")[0])
