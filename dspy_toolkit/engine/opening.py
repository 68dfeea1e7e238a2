"""Opening a model: from a reference to an engine that answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.blas import preload_blas, use_one_thread
from dspy_toolkit.engine.options import EngineOptions
from dspy_toolkit.engine.sizes import parameter_count
from dspy_toolkit.engine.source import find_source, read_config, weight_files
from dspy_toolkit.errors import EngineError

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine

# Products of models below this are over before a second thread has joined in.
_SMALL_PARAMETERS = 8_000_000


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
    """`open_engine` from JSON values, in a process of its own.

    Args:
        options: as of `EngineOptions.dump`.
        settings: fields of `Settings`.

    Raises:
        As `open_engine`.
    """
    engine = open_engine(reference, EngineOptions.load(options), Settings(**settings))
    folder = find_source(reference).folder
    if parameter_count(weight_files(folder), read_config(folder)) < _SMALL_PARAMETERS:
        use_one_thread()
    return engine
