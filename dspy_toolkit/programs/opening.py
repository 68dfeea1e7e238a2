"""Opening a model by its reference: on this machine, or behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, reject_unknown_keys
from dspy_toolkit.programs.cache import current_settings, use_call_cache
from dspy_toolkit.programs.lm import LocalLM, ModelSource
from dspy_toolkit.programs.remote_lm import PREFIX, remote_lm, remote_string


def local_lm(
    reference: str = "embedded",
    *,
    adapter: Path | str | None = None,
    temperature: float = 0.0,
    max_tokens: int = 1024,
    seed: int = 0,
    settings: Settings | None = None,
    **options: Any,
) -> LocalLM:
    """Open a model on this machine as a language model for DSPy.

    Answers are cached in `<home>/cache` unless the settings turn that off.

    Args:
        reference: "embedded", a folder that mlx-lm can load, a hub id, or an endpoint's model, see
            `remote_lm`.
        adapter: folder of a LoRA or full fine-tune, laid over the weights.
        temperature: 0 takes the likeliest token every time.
        max_tokens: longest answer.
        seed: start of all sampling.
        settings: where the cache lies, which device is used, and whether the model runs in a
            process of its own; read from the environment when left out.
        options: further fields of `EngineOptions`, for example `min_p` or `template`.

    Raises:
        NotFound, InvalidInput, EngineError: the model does not exist, does not fit, or cannot be
            loaded.
    """
    from dspy_toolkit.engine import EngineOptions
    from dspy_toolkit.programs.supervised import model_engine

    reject_unknown_keys(options, {each.name for each in fields(EngineOptions)}, "model options")
    chosen = settings or current_settings()
    if reference.startswith(PREFIX):
        if adapter is not None or options:
            raise InvalidInput("a remote model takes no adapter and no engine options")
        return remote_lm(
            reference, temperature=temperature, max_tokens=max_tokens, seed=seed, settings=chosen
        )
    use_call_cache(chosen)
    engine = model_engine(
        reference,
        EngineOptions(
            adapter=None if adapter is None else Path(adapter),
            temperature=temperature,
            max_tokens=max_tokens,
            **options,
        ),
        chosen,
    )
    return LocalLM(
        engine.model_string,
        engine=engine,
        async_engine=engine.async_twin,
        seed=seed,
        source=ModelSource(reference, None if adapter is None else str(adapter), dict(options)),
        temperature=temperature,
        max_tokens=max_tokens,
        cache=chosen.cache,
    )


def model_string(
    reference: str,
    settings: Settings,
    *,
    adapter: Path | None = None,
    temperature: float = 0.0,
    max_tokens: int = 1024,
    **options: Any,
) -> str:
    """DSPy's string for the model that `local_lm` would open, which is not loaded for it.

    Raises:
        NotFound, InvalidInput, EngineError: the model is not on this machine, or is none.
    """
    from dspy_toolkit.engine import EngineOptions, describe_model

    if reference.startswith(PREFIX):
        return remote_string(reference)
    asked = EngineOptions(
        adapter=adapter, temperature=temperature, max_tokens=max_tokens, **options
    )
    return describe_model(reference, asked, settings).model_string


@contextmanager
def chosen_model(
    lm: LocalLM | None,
    model: str | None,
    adapter: Path | None,
    opened: Callable[[str | None, Path | None], LocalLM],
) -> Iterator[LocalLM]:
    """The model that was given, or one opened for the block and given back after it.

    Args:
        lm: a model made in Python, which stays open.
        model, adapter: what to open instead; `opened` says what None means.
        opened: opens it.

    Raises:
        InvalidInput: `lm` was given together with `model` or `adapter`.
    """
    if lm is not None and (model is not None or adapter is not None):
        raise InvalidInput("lm is a whole model already; leave out model and adapter, or lm")
    used = opened(model, adapter) if lm is None else lm
    try:
        yield used
    finally:
        if lm is None:
            used.release()
