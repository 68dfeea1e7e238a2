"""The language model that DSPy programs call: a `dspy.LM` over a local engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import dspy
from dspy.lm15 import Request

from dspy_toolkit.contract import answered_in_place
from dspy_toolkit.events import current_run
from dspy_toolkit.programs.cache import Keep
from dspy_toolkit.programs.calls import current_tally
from dspy_toolkit.programs.flights import Flight, Flights
from dspy_toolkit.programs.model_call import async_model_call, model_call
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
    def names(self) -> tuple[str, ...]:
        """What it is called, as the user named it first, DSPy's string for it last."""
        return (self.source.reference, self.model) if self.source else (self.model,)

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


def _is_typed(prompt: Any, kwargs: dict[str, Any]) -> bool:
    return isinstance(prompt, Request) or kwargs.get("request") is not None


def _controls(kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a call with a request may say beside it."""
    return {name: kwargs[name] for name in ("cache", "rollout_id") if name in kwargs}
