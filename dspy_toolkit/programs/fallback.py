"""A program that is answered for by others when it fails, under the same policy as engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import dspy
from dspy.adapters.utils import serialize_for_json

from dspy_toolkit.contract import Message, Request, Response
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.answer_sources import (
    KEY,
    Asked,
    Signature,
    Source,
    asked,
    check_source,
    engine_of,
    signature_of,
    typed,
)
from dspy_toolkit.resilience import (
    AnswerMemory,
    EnginePolicy,
    Policy,
    ResilientEngine,
    RetryPolicy,
    answered_by,
)
from dspy_toolkit.resilience.breaker import Breaker
from dspy_toolkit.resilience.clock import Clock
from dspy_toolkit.resilience.engine import SYSTEM_CLOCK
from dspy_toolkit.resilience.storage import BreakerStorage


class AnsweredPrediction(dspy.Prediction):  # type: ignore[misc]  # DSPy ships no types
    """A prediction that says who gave it. Its fields are the signature's alone."""

    _answered_by = ""
    _engines: tuple[str, ...] = ()

    @property
    def answered_by(self) -> str:
        """Name of the program, head model, memory or default that answered."""
        return self._answered_by

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of the guarded engines that answered it, by their policy; none for a cache."""
        return self._engines


class FallbackProgram(dspy.Module):  # type: ignore[misc]  # DSPy ships no types
    """Programs of one signature in a row: the next is asked when one gives no answer.

    Args:
        sources: the programs by name, and what may stand in for them: a head model, a
            `TypedDefault`, an `AnswerMemory` of what those before it answered.
        policy: which comes after which, and within what bounds; times are on the whole answer.
            Left out, they are asked in the order given, each once. Programs are not retried
            unless it says so: the engines below them are.
        signature: what goes in and out; that of the first program when left out.
        clock, storage: as of `ResilientEngine`.

    Raises:
        InvalidInput: one has another signature, is given twice, or the policy does not fit.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        policy: Policy | None = None,
        *,
        signature: Signature | None = None,
        clock: Clock = SYSTEM_CLOCK,
        storage: Callable[[str], BreakerStorage] | None = None,
    ) -> None:
        super().__init__()
        chosen = policy or in_order(list(sources))
        for name, each in chosen.engines.items():
            if each.timeouts.on_tokens:
                raise InvalidInput(
                    f"program {name!r}: a program's answer has no tokens to watch; "
                    "use whole_s instead of first_token_s and between_tokens_s"
                )
        self.signature = signature or _first_signature(sources)
        _refuse_twice(sources)
        self.sources = {
            name: check_source(name, source, self.signature) for name, source in sources.items()
        }
        engines = {name: engine_of(name, source) for name, source in self.sources.items()}
        self._engine = ResilientEngine(chosen, engines, clock=clock, storage=storage)

    @property
    def breakers(self) -> dict[str, Breaker]:
        """The breakers by program, to look at, open and close by hand."""
        return self._engine.breakers

    def forward(self, **inputs: Any) -> AnsweredPrediction:
        """Answer, from whichever source does.

        Raises:
            What the first source raised, where it alone was asked; else `EveryEngineFailed`.
        """
        call = Asked(self.sources, inputs)
        token = asked.set(call)
        try:
            return self._signed(self._engine.complete(_question(inputs)), call)
        finally:
            asked.reset(token)

    async def aforward(self, **inputs: Any) -> AnsweredPrediction:
        """`forward` for coroutines."""
        call = Asked(self.sources, inputs)
        token = asked.set(call)
        try:
            return self._signed(await self._engine.async_twin.complete(_question(inputs)), call)
        finally:
            asked.reset(token)

    def _signed(self, response: Response, call: Asked) -> AnsweredPrediction:
        data = response.provider_data or {}
        found = call.predictions.get(data[KEY]) if data.get("generated") is not False else None
        prediction, engines = found or (typed(json.loads(response.text), self.signature), ())
        signed = AnsweredPrediction(**dict(prediction.items()))
        signed.set_lm_usage(prediction.get_lm_usage())
        signed._completions = prediction.completions
        signed._answered_by = answered_by(response) or ""
        signed._engines = engines
        return signed


def in_order(names: list[str]) -> Policy:
    """A policy that asks each once, in this order.

    Raises:
        InvalidInput: there is none.
    """
    if not names:
        raise InvalidInput("a program with fallbacks needs at least one program")
    following = dict(pairwise(names))
    once = RetryPolicy(attempts=1)
    engines = {name: EnginePolicy(fallback=following.get(name), retry=once) for name in names}
    return Policy(names[0], engines)


def _first_signature(sources: Mapping[str, Source]) -> Signature:
    for source in sources.values():
        if isinstance(source, dspy.Module):
            found = signature_of(source)
            if found is not None:
                return found
    raise InvalidInput(
        "none of the programs says what goes in and out; give signature=... to the whole"
    )


def _refuse_twice(sources: Mapping[str, Source]) -> None:
    seen: dict[int, str] = {}
    for name, source in sources.items():
        other = seen.setdefault(id(source), name)
        if other != name and not isinstance(source, AnswerMemory):
            raise InvalidInput(
                f"{name!r} and {other!r} are the same program, which would fall back to itself; "
                "remove one"
            )


def _question(inputs: Mapping[str, Any]) -> Request:
    told = {name: serialize_for_json(value) for name, value in sorted(inputs.items())}
    text = json.dumps(told, ensure_ascii=False)
    return Request(model="program", messages=(Message.user(text),))
