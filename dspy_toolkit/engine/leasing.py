"""From a reference to a loaded model, shared where this process has it open."""

from __future__ import annotations

import time

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.engine.options import EngineOptions
from dspy_toolkit.engine.pool import Lease, lease
from dspy_toolkit.engine.source import download, find_source, read_config
from dspy_toolkit.errors import EngineError
from dspy_toolkit.events import ModelLoaded, emit


def lease_model(
    reference: str, options: EngineOptions, settings: Settings | None = None
) -> tuple[Lease, str]:
    """Load a model, or share it; returns the lease and the model string.

    Args:
        reference, options, settings: as of `open_engine`.

    Raises:
        NotFound: no such model or adapter. EngineError: it cannot be loaded; says why.
    """
    settings = settings or load_settings()
    # Before anything imports MLX.
    preload_blas(settings.blas)
    try:
        from dspy_toolkit.engine.identity import identify
        from dspy_toolkit.engine.start import start_worker
    except ImportError as error:
        raise EngineError(f"MLX cannot be loaded ({error}); run `dspy-tk doctor`") from error

    source = find_source(reference, fetch=download)
    read_config(source.folder)
    identity = identify(source, options, settings)
    device = identity.device
    began = time.perf_counter()
    opened = lease(
        (identity.files, device.name, device.dtype, options.speed),
        lambda: start_worker(source, options, device, identity.files, settings.home),
    )
    if opened.fresh:
        facts = opened.worker.facts
        note = facts.unshared or facts.copies or ""
        emit(ModelLoaded(identity.model_string, device.name, time.perf_counter() - began, note))
    return opened, identity.model_string
