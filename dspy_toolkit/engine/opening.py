"""Opening a model: from a reference to an engine that answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.options import EngineOptions
from dspy_toolkit.events import ModelLoaded, emit

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
    options = options or EngineOptions()
    from dspy_toolkit.engine.blas import preload_blas

    # Before anything imports MLX.
    preload_blas(settings.blas)
    from dspy_toolkit.engine import device as devices
    from dspy_toolkit.engine import digest, pool, source
    from dspy_toolkit.engine.mlx_engine import MlxEngine, start_worker

    found = source.find_source(reference, fetch=source.download)
    source.read_config(found.folder)
    device = devices.choose_device(
        settings.device if options.device == "auto" else options.device,
        settings.dtype if options.dtype == "auto" else options.dtype,
    )
    weights = digest.model_digest(found.folder, options.adapter, settings.home)
    identity = digest.answer_digest(weights, device.dtype, options)
    model = f"mlx/{found.name}#{identity[:12]}"
    speed = (options.rows, options.prefill_rows, options.prefill_tokens)
    began = time.perf_counter()
    opened = pool.lease(
        (weights, device.name, device.dtype, speed),
        lambda: start_worker(found, options, device),
    )
    if opened.fresh:
        emit(ModelLoaded(model, device.name, time.perf_counter() - began))
    return MlxEngine(opened, reference, model, options)
