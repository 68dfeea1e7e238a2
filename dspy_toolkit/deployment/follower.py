"""Keeping a server's programs on the versions that the aliases point to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from dspy_toolkit.config import Settings
from dspy_toolkit.deployment.bundle import smoke_test
from dspy_toolkit.deployment.store import PRODUCTION, Deployment
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.events import VersionRefused, VersionSwitched, emit
from dspy_toolkit.programs.served import LoadedProgram
from dspy_toolkit.programs.shelf import Shelf

POLL_S = 0.25

_Mark = tuple[int, int, int]


class Follower:
    """Puts the production version of one deployment on a shelf, and every one that follows it.

    A version is opened and has to answer its smoke test before it takes the place; until then,
    and if it fails, the one before answers. Requests that run end on the version they began with.

    Args:
        deployment: whose alias is followed.
        shelf: what the server answers from.
        settings: for opening models.
        name: what the program is called there; the deployment's name when left out.
    """

    def __init__(
        self, deployment: Deployment, shelf: Shelf, settings: Settings, name: str | None = None
    ) -> None:
        self._deployment = deployment
        self._shelf = shelf
        self._settings = settings
        self.name = name or deployment.name
        self._seen: _Mark | None = None
        self._refused: str | None = None

    def changed(self) -> bool:
        """Whether the aliases were written since the last look."""
        try:
            stat = self._deployment.alias_file.stat()
            mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except FileNotFoundError:
            mark = (0, 0, 0)
        seen, self._seen = self._seen, mark
        return mark != seen

    async def follow(self) -> None:
        """Look once, and switch if the alias points elsewhere.

        Raises:
            ToolkitError: nothing is served under the name yet and nothing can be.
        """
        if not await asyncio.to_thread(self.changed):
            return
        before = self._shelf.version(self.name)
        version = "unknown"
        try:
            version = await asyncio.to_thread(self._deployment.resolve, PRODUCTION)
            if version in (before, self._refused):
                return
            program = await self._opened(version)
        except ToolkitError as error:
            self._refused = version
            emit(VersionRefused(self.name, version, str(error)))
            if before is None:
                raise
            return
        self._refused = None
        self._shelf.put(program)
        emit(VersionSwitched(self.name, before or "", version))

    async def _opened(self, version: str) -> LoadedProgram:
        bundle = await asyncio.to_thread(self._deployment.bundle, version)
        program = await asyncio.to_thread(bundle.open, self._settings)
        program.name = self.name
        try:
            await smoke_test(program, bundle.smoke_inputs)
        except BaseException:
            await asyncio.to_thread(program.close)
            raise
        return program


@asynccontextmanager
async def following(
    followers: Sequence[Follower],
    begun: Callable[[str, str | None], None] = lambda name, failure: None,
    poll_s: float = POLL_S,
) -> AsyncIterator[None]:
    """Follow deployments while the block runs.

    Args:
        followers: of the deployments.
        begun: told each name once its first version answers, or why none can.
        poll_s: how often the alias files are looked at.
    """

    async def watch() -> None:
        for each in followers:
            failure: str | None = None
            try:
                await each.follow()
            except ToolkitError as error:
                failure = str(error)
            begun(each.name, failure)
        while True:
            await asyncio.sleep(poll_s)
            for each in followers:
                with contextlib.suppress(ToolkitError):
                    await each.follow()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
