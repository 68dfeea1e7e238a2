"""Models of this machine, in this process or in one of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.resilience import Opening, SupervisedEngine, SupervisionPolicy

if TYPE_CHECKING:
    from dspy_toolkit.engine import EngineOptions
    from dspy_toolkit.engine.mlx_engine import MlxEngine

_OPEN = "dspy_toolkit.engine.opening:open_described"


def model_engine(
    reference: str, options: EngineOptions, settings: Settings
) -> MlxEngine | SupervisedEngine:
    """`open_engine`, or `supervised_engine` where the settings say so."""
    if settings.supervised:
        return supervised_engine(reference, options, settings)
    from dspy_toolkit.engine import open_engine

    return open_engine(reference, options, settings)


def supervised_engine(
    reference: str,
    options: EngineOptions | None = None,
    settings: Settings | None = None,
    policy: SupervisionPolicy | None = None,
) -> SupervisedEngine:
    """`open_engine`, in a child process that is watched and started again when it fails.

    Engines over the same weights, device and speed share a process, as they would share the model
    in this one.

    Args:
        reference, options, settings: as of `open_engine`.
        policy: how the process is watched; with one of its own, an engine shares with nobody.

    Raises:
        As `open_engine`.
    """
    from dspy_toolkit.engine import EngineOptions
    from dspy_toolkit.engine.digest import model_digest
    from dspy_toolkit.engine.source import download, find_source, read_config
    from dspy_toolkit.store.files import sha256_json

    chosen = settings or load_settings()
    asked = options or EngineOptions()
    source = find_source(reference, fetch=download)
    read_config(source.folder)
    files = model_digest(source.folder, asked.adapter, chosen.home)
    # What else is set, such as whether answers are kept, makes no other engine.
    used = {name: getattr(chosen, name) for name in ("device", "dtype", "blas")}
    arguments = {
        "reference": reference,
        "options": asked.dump(),
        "settings": {**used, "home": str(chosen.home)},
    }
    loaded = [files, asked.device, asked.dtype, asked.speed, arguments["settings"]]
    # A folder's path is nobody's business in metrics, and its name alone may be another's too.
    is_folder = Path(reference).expanduser().is_dir()
    return SupervisedEngine(
        Opening(_OPEN, arguments),
        policy,
        name=f"{source.name}#{files[:8]}" if is_folder else reference,
        shared_as=sha256_json(loaded) if policy is None else None,
    )
