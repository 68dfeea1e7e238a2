"""Models of this machine, in this process or in one of their own."""

from __future__ import annotations

from dataclasses import fields
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

    Args:
        reference, options, settings: as of `open_engine`.
        policy: how the process is watched.

    Raises:
        As `open_engine`.
    """
    chosen = settings or load_settings()
    values = {each.name: getattr(chosen, each.name) for each in fields(chosen)}
    arguments = {
        "reference": reference,
        "options": {} if options is None else options.dump(),
        "settings": {**values, "home": str(chosen.home)},
    }
    return SupervisedEngine(Opening(_OPEN, arguments), policy, name=reference)
