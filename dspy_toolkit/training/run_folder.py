"""A training run on disk: its recipe and what it depends on."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound
from dspy_toolkit.store.files import new_folder, read_json, write_json
from dspy_toolkit.training.recipe import Recipe
from dspy_toolkit.training.recipe_file import recipe_from

_RUN = "run.json"


@dataclass(frozen=True)
class RunFolder:
    """A training run.

    Attributes:
        run: its id, also the name of its folder.
        path: the folder, absolute.
        recipe: as it was when the run began.
        started_at: seconds since the epoch.
        depends_on: hex SHA-256 by path, or by name of a model, of all that it was made from.
    """

    run: str
    path: Path
    recipe: Recipe
    started_at: float
    depends_on: Mapping[str, str]

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def result(self) -> Path:
        """Where the trained model or adapter will lie."""
        return self.path / ("model" if self.recipe.model.mode == "full" else "adapter")

    def require_unchanged(self, now: Mapping[str, str]) -> None:
        """Make sure that a resumed run goes on with what it began with.

        Raises:
            IntegrityError: a data file or model is not what it was.
        """
        for name, digest in self.depends_on.items():
            if now.get(name) != digest:
                raise IntegrityError(
                    f"{name} was changed since run {self.run} began, so it cannot go on; "
                    "restore it, or start a new run"
                )


def create_run(
    settings: Settings, recipe: Recipe, depends_on: Mapping[str, str], now: float | None = None
) -> RunFolder:
    """Make the folder of a new run.

    Raises:
        StorageError: the home cannot be written.
    """
    started_at = time.time() if now is None else now
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(started_at))
    run = f"{stamp}-{recipe.name}-{secrets.token_hex(2)}"
    with new_folder(settings.runs / run) as folder:
        write_json(
            folder / _RUN,
            {
                "kind": "training",
                "run": run,
                "started_at": started_at,
                "recipe": recipe.to_dict(),
                "depends_on": dict(depends_on),
            },
        )
    return RunFolder(run, settings.runs / run, recipe, started_at, dict(depends_on))


def open_run(settings: Settings, reference: str) -> RunFolder:
    """Find a run by id or by the path of its folder.

    Raises:
        NotFound: there is none. InvalidInput: it is no training run.
        IntegrityError: its `run.json` is damaged.
    """
    if not reference:
        raise NotFound("a training run is asked for by an empty id; `dspy-tk runs list` shows ids")
    candidates = [settings.runs / reference, Path(reference).expanduser().absolute()]
    path = next((each for each in candidates if (each / _RUN).is_file()), None)
    if path is None:
        if any(each.is_dir() for each in candidates):
            raise InvalidInput(f"{reference} is no training run: it has no {_RUN}")
        raise NotFound(f"training run {reference!r} is not in {settings.runs}; check the id")
    values = read_json(path / _RUN, "training run")
    try:
        recipe = recipe_from(values["recipe"], f"run {path.name}", path)
        return RunFolder(
            str(values["run"]), path, recipe, float(values["started_at"]), values["depends_on"]
        )
    except (KeyError, TypeError, ValueError, InvalidInput) as error:
        raise IntegrityError(f"{path / _RUN} is damaged ({error}); start a new run") from None
