"""A model behind an OpenAI-compatible endpoint, named by one text."""

from __future__ import annotations

import re

from dspy_toolkit.config import Settings, secret
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.cache import use_call_cache
from dspy_toolkit.programs.lm import LocalLM, ModelSource

PREFIX = "remote/"
_FORM = "remote/MODEL@https://HOST/v1, with ?key_env=NAME where the endpoint wants a key"
_REFERENCE = re.compile(
    r"remote/(?P<model>.+)@(?P<url>https?://[^?#\s]+)(?:\?key_env=(?P<key>[A-Za-z_]\w*))?"
)
_RETRIES = 3


def remote_lm(
    reference: str, *, temperature: float, max_tokens: int, seed: int, settings: Settings
) -> LocalLM:
    """Open an endpoint's model as a language model for DSPy.

    The key is read from the environment at each start and written nowhere: the reference holds
    the variable's name alone. Calls that failed for a passing reason are made again.

    Args:
        reference: `remote/MODEL@URL`, or `remote/MODEL@URL?key_env=NAME`.
        temperature, max_tokens, seed: as of `local_lm`.
        settings: where answers are cached.

    Raises:
        InvalidInput: the reference has another form, or the variable is not set.
    """
    from dspy_toolkit.resilience.remote import RemoteEngine

    model, url, key = _parts(reference)
    engine = RemoteEngine(url, model, key)
    use_call_cache(settings)
    return LocalLM(
        engine.model_string,
        engine=engine,
        async_engine=engine.async_twin,
        seed=seed,
        source=ModelSource(reference),
        temperature=temperature,
        max_tokens=max_tokens,
        num_retries=_RETRIES,
        cache=settings.cache,
    )


def remote_string(reference: str) -> str:
    """DSPy's string for an endpoint's model.

    Raises:
        InvalidInput: the reference has another form, or its variable is not set.
    """
    model, url, _ = _parts(reference)
    return f"{PREFIX}{model}@{url}"


def _parts(reference: str) -> tuple[str, str, str | None]:
    """Model, address and key."""
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise InvalidInput(f"model {reference!r} is no remote model; write {_FORM}")
    return found["model"], found["url"], secret(found["key"]) if found["key"] else None
