"""Opening a model: from a reference to an engine that answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.engine.options import EngineOptions
from dspy_toolkit.errors import EngineError

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine


def open_engine(
    reference: str, options: EngineOptions | None = None, settings: Settings | None = None
) -> MlxEngine:
    """Load a model, or share it where this process has it open, and return an engine over it.

    Args:
        reference: "embedded", a model folder, or a Hugging Face hub id, which is downloaded
            when it is not on this machine.
        options: how to load it and how it answers.
        settings: where the home folder lies, which BLAS to use, and the device and number type
            that options leave at "auto".

    Raises:
        NotFound: no such model or adapter. EngineError: it cannot be loaded; says why.
    """
    settings = settings or load_settings()
    # Before anything imports MLX.
    preload_blas(settings.blas)
    try:
        from dspy_toolkit.engine.mlx_engine import MlxEngine
    except ImportError as error:
        raise EngineError(f"MLX cannot be loaded ({error}); run `dspy-tk doctor`") from error

    return MlxEngine.open(reference, options or EngineOptions(), settings)


def open_described(
    reference: str, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> MlxEngine:
    """`open_engine` from JSON values, as another process gets them.

    Args:
        options: as of `EngineOptions.dump`.
        settings: every field of `Settings`.

    Raises:
        As `open_engine`.
    """
    return open_engine(reference, EngineOptions.load(options), Settings(**settings))
