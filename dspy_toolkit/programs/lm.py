"""The language model that DSPy programs call: a `dspy.LM` over a local engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import dspy
from dspy.lm15 import Request

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import answered_in_place
from dspy_toolkit.errors import InvalidInput, reject_unknown_keys
from dspy_toolkit.events import current_run
from dspy_toolkit.programs.cache import Keep, current_settings, use_call_cache
from dspy_toolkit.programs.calls import current_tally
from dspy_toolkit.programs.flights import Flight, Flights
from dspy_toolkit.programs.model_call import async_model_call, model_call
from dspy_toolkit.programs.remote_lm import PREFIX, remote_lm
from dspy_toolkit.programs.samples import in_tasks, in_threads, sample_seed
from dspy_toolkit.programs.weighed import weighed_output, weighed_request


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

    Equal calls made at the same time are made once, where answers are cached. An answer that
    another engine gave in the place of a resilient one's primary is not cached.

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
        self._flights = Flights()
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

    @property
    def weighs_options(self) -> bool:
        """Whether answers can bring the probabilities of their options; see `guided`."""
        return bool(getattr(self.engine, "supports_probabilities", False))

    def release(self) -> None:
        """Give the model back, for whoever opened it; calls after this fail.

        DSPy's own `close` leaves an engine that it was given alone.
        """
        self.engine.close()

    def dump_state(self) -> dict[str, Any]:
        """The state for DSPy's own saving of programs that hold their model."""
        return {**super().dump_state(), "seed": self.seed}

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Answer a prompt or messages with a list of texts, or a `Request` with a `Response`.

        Several samples are asked for at once, so that they are read once and decoded together.
        """
        if _is_typed(prompt, kwargs):
            request = self._seeded_request(prompt, kwargs)
            with model_call(self, request, None, kwargs) as call:
                if not call.known:
                    with self._kept(kwargs):
                        call.answer = super().__call__(request, **kwargs)
            return call.answer
        samples, copies = self._samples(kwargs)
        answers = in_threads([partial(self._answer, prompt, messages, each) for each in samples])
        return [answer for each in answers for answer in each] * copies

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """The same for coroutines."""
        if _is_typed(prompt, kwargs):
            request = self._seeded_request(prompt, kwargs)
            async with async_model_call(self, request, None, kwargs) as call:
                if not call.known:
                    with self._kept(kwargs):
                        call.answer = await super().acall(request, **kwargs)
            return call.answer
        samples, copies = self._samples(kwargs)
        answers = await in_tasks([partial(self._aanswer, prompt, messages, s) for s in samples])
        return [answer for each in answers for answer in each] * copies

    def _answer(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> list[Any]:
        request = weighed_request(self.model, prompt, messages, {**self.kwargs, **kwargs})
        with model_call(self, prompt, messages, kwargs) as call:
            if not call.known:
                alone = self._alone("call", prompt, messages, kwargs)
                with self._kept(kwargs), alone as flight:
                    flight.wait()
                    if request is None:
                        call.answer = list(super().__call__(prompt, messages=messages, **kwargs))
                    else:
                        answered = super().__call__(request, **_controls(kwargs))
                        call.answer = [weighed_output(answered)]
        return list(call.answer)

    async def _aanswer(self, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> list[Any]:
        request = weighed_request(self.model, prompt, messages, {**self.kwargs, **kwargs})
        async with async_model_call(self, prompt, messages, kwargs) as call:
            if not call.known:
                alone = self._alone("acall", prompt, messages, kwargs)
                with self._kept(kwargs), alone as flight:
                    await flight.await_()
                    if request is None:
                        found = await super().acall(prompt, messages=messages, **kwargs)
                        call.answer = list(found)
                    else:
                        answered = await super().acall(request, **_controls(kwargs))
                        call.answer = [weighed_output(answered)]
        return list(call.answer)

    def _alone(self, way: str, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Hold a call back while the same one is in flight: its answer will be in the cache."""
        if not kwargs.get("cache", self.cache) or dspy.settings.send_stream is not None:
            return nullcontext(Flight.landed())
        return self._flights.boarded(way, self.model, prompt, messages, self.kwargs, kwargs)

    def _samples(self, kwargs: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
        """The calls to make for one, and how often their answers are to be repeated."""
        merged = {**self.kwargs, **kwargs}
        count = merged.get("n") or 1
        single = {**kwargs, "n": None} if "n" in merged else kwargs
        if not merged.get("temperature"):
            # Without chance all samples are the same.
            return [single], count
        base = self.seed if merged.get("seed") is None else merged["seed"]
        rollout = merged.get("rollout_id")
        return [{**single, "seed": sample_seed(base, rollout, n)} for n in range(count)], 1

    def _seeded_request(self, prompt: Any, kwargs: dict[str, Any]) -> Request:
        request: Request = kwargs.pop("request", None) or prompt
        if not request.config.temperature or request.config.seed is not None:
            return request
        seed = sample_seed(self.seed, kwargs.get("rollout_id"), 0)
        return replace(request, config=replace(request.config, seed=seed))

    @contextmanager
    def _kept(self, kwargs: dict[str, Any]) -> Iterator[None]:
        """Say for which run a call is made; keep another model's answer out of the cache."""
        run = current_run.set(current_tally().run)
        keep = Keep(bool(kwargs.get("cache", self.cache)))
        if keep and hasattr(self.engine, "policy"):
            kwargs["cache"] = keep
        stood_in = answered_in_place.set(keep.drop)
        try:
            yield
        finally:
            answered_in_place.reset(stood_in)
            current_run.reset(run)


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


def _controls(kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a call with a request may say beside it."""
    return {name: kwargs[name] for name in ("cache", "rollout_id") if name in kwargs}
