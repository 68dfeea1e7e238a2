"""The language model that DSPy programs call: a `dspy.LM` over a local engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import dspy
from dspy.lm15 import Request

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, reject_unknown_keys
from dspy_toolkit.programs.cache import current_settings, use_call_cache
from dspy_toolkit.programs.model_call import async_model_call, model_call
from dspy_toolkit.programs.remote_lm import PREFIX, remote_lm
from dspy_toolkit.store.files import sha256_json


@dataclass(frozen=True)
class ModelSource:
    """How a model was opened, enough to open it again.

    Attributes:
        reference: "embedded", a folder or a hub id.
        adapter: folder of a fine-tune laid over the weights.
        options: engine options that differ from the defaults, by name.
    """

    reference: str
    adapter: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


class LocalLM(dspy.LM):  # type: ignore[misc]  # DSPy ships no types
    """A `dspy.LM` that counts and reports its calls and samples reproducibly.

    With a temperature, every sample has its own seed, made from `seed`, the call's `rollout_id`
    and the sample's number, so that rollouts differ and a rerun repeats them. Copies share the
    engine; `copy(seed=...)` starts sampling elsewhere.

    Attributes:
        proposes: whether it is asked for instructions, rules and advice, not for the task itself.
    """

    proposes = False

    def __init__(
        self,
        model: str,
        *,
        engine: Any,
        async_engine: Any = None,
        seed: int = 0,
        source: ModelSource | None = None,
        temperature: float | None = 0.0,
        max_tokens: int | None = 1024,
        num_retries: int = 0,
        **settings: Any,
    ) -> None:
        """Put a language model over an engine.

        Args:
            model: names the model *and* everything that changes its answers, since DSPy's cache
                knows an engine by this text only. Engines of the toolkit have it as
                `model_string`.
            engine, async_engine: as DSPy's engine contract has them.
            seed: start of all sampling.
            source: how to open the model again; artifacts record it.
            num_retries: a local engine fails for a reason, so no call is repeated by default.
            settings: further keywords of `dspy.LM`, for example `cache` and `top_p`.
        """
        self.seed = seed
        self.source = source
        super().__init__(
            model,
            engine=engine,
            async_engine=async_engine,
            temperature=temperature,
            max_tokens=max_tokens,
            num_retries=num_retries,
            **settings,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # DSPy deep-copies programs with their model; weights must not be copied along.
        return self

    def release(self) -> None:
        """Give the model back, for whoever opened it; calls after this fail.

        DSPy's own `close` leaves an engine that it was given alone.
        """
        self.engine.close()

    def dump_state(self) -> dict[str, Any]:
        """The state for DSPy's own saving of programs that hold their model."""
        return {**super().dump_state(), "seed": self.seed}

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Answer a prompt or messages with a list of texts, or a `Request` with a `Response`."""
        if _is_typed(prompt, kwargs):
            request = self._seeded_request(prompt, kwargs)
            with model_call(self, request, None, kwargs) as call:
                if not call.known:
                    call.answer = super().__call__(request, **kwargs)
            return call.answer
        answers: list[Any] = []
        for each in self._samples(kwargs):
            with model_call(self, prompt, messages, each) as call:
                if not call.known:
                    call.answer = super().__call__(prompt, messages=messages, **each)
            answers += call.answer
        return answers

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """The same for coroutines."""
        if _is_typed(prompt, kwargs):
            request = self._seeded_request(prompt, kwargs)
            async with async_model_call(self, request, None, kwargs) as call:
                if not call.known:
                    call.answer = await super().acall(request, **kwargs)
            return call.answer
        answers: list[Any] = []
        for each in self._samples(kwargs):
            async with async_model_call(self, prompt, messages, each) as call:
                if not call.known:
                    call.answer = await super().acall(prompt, messages=messages, **each)
            answers += call.answer
        return answers

    def _samples(self, kwargs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        merged = {**self.kwargs, **kwargs}
        if not merged.get("temperature"):
            yield kwargs
            return
        base = self.seed if merged.get("seed") is None else merged["seed"]
        count = merged.get("n") or 1
        single = {"n": None} if "n" in merged else {}
        for number in range(count):
            seed = _sample_seed(base, merged.get("rollout_id"), number)
            yield {**kwargs, **single, "seed": seed}

    def _seeded_request(self, prompt: Any, kwargs: dict[str, Any]) -> Request:
        request: Request = kwargs.pop("request", None) or prompt
        if not request.config.temperature or request.config.seed is not None:
            return request
        seed = _sample_seed(self.seed, kwargs.get("rollout_id"), 0)
        return replace(request, config=replace(request.config, seed=seed))


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
        settings: where the cache lies and which device is used; read from the environment when
            left out.
        options: further fields of `EngineOptions`, for example `min_p` or `template`.

    Raises:
        NotFound, InvalidInput, EngineError: the model does not exist, does not fit, or cannot be
            loaded.
    """
    from dspy_toolkit.engine import EngineOptions, open_engine

    reject_unknown_keys(options, {each.name for each in fields(EngineOptions)}, "model options")
    chosen = settings or current_settings()
    if reference.startswith(PREFIX):
        if adapter is not None or options:
            raise InvalidInput("a remote model takes no adapter and no engine options")
        return remote_lm(
            reference, temperature=temperature, max_tokens=max_tokens, seed=seed, settings=chosen
        )
    use_call_cache(chosen)
    engine = open_engine(
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


def _is_typed(prompt: Any, kwargs: dict[str, Any]) -> bool:
    return isinstance(prompt, Request) or kwargs.get("request") is not None


def _sample_seed(base: int, rollout: Any, number: int) -> int:
    if rollout is None and number == 0:
        return base
    return int(sha256_json([base, rollout, number])[:8], 16) >> 1
