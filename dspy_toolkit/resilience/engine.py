"""The policy as an engine around engines, so that it stands wherever an engine may stand."""

from __future__ import annotations

import importlib
import random
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Self

import pybreaker

from dspy_toolkit.contract import AsyncEngine, Engine, Request, Response, StreamEvent
from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.events import Event, GuardSampled
from dspy_toolkit.resilience.breaker import Breaker
from dspy_toolkit.resilience.chain import ANSWERED_BY, Chain
from dspy_toolkit.resilience.clock import Clock, SystemClock
from dspy_toolkit.resilience.driver import finish, finish_each
from dspy_toolkit.resilience.guard import Guard
from dspy_toolkit.resilience.guarded import Accept
from dspy_toolkit.resilience.policy import Policy
from dspy_toolkit.resilience.reading import policy_data, read_policy
from dspy_toolkit.resilience.storage import BreakerStorage

SYSTEM_CLOCK = SystemClock()


class ResilientEngine:
    """Engines behind a policy. Give it to `dspy.LM` with `num_retries=0`: the policy retries.

    Its answers say who gave them; see `answered_by`. Its `model_string` and what DSPy asks of an
    engine's abilities (`supports_...`, `supported_params`) are the primary engine's.

    Args:
        policy: what to do.
        engines: the engines by the names the policy uses. Closing this closes them.
        clock: tells the time and waits.
        chance: draws the jitter of waits.
        storage: makes the place for the state of an engine's breaker, by the engine's name;
            in memory when left out. `stored_in(folder)` keeps it in files.
        listeners: pybreaker listeners for every breaker.
        accept: looks at each answer of `complete`; one it refuses counts as a failed attempt.

    Raises:
        InvalidInput: the policy and the engines do not have the same names.
    """

    def __init__(
        self,
        policy: Policy,
        engines: Mapping[str, Engine],
        *,
        clock: Clock = SYSTEM_CLOCK,
        chance: random.Random | None = None,
        storage: Callable[[str], BreakerStorage] | None = None,
        listeners: Iterable[pybreaker.CircuitBreakerListener] = (),
        accept: Accept | None = None,
    ) -> None:
        _check_names(policy, engines)
        self.policy = policy
        self.clock = clock
        self._engines = dict(engines)
        self._chance = chance or random.Random()
        self._guards = {
            name: Guard(
                name,
                each,
                clock,
                storage(name) if storage and each.breaker else None,
                list(listeners),
                accept,
            )
            for name, each in policy.engines.items()
        }
        self._chain = Chain(policy, self._guards, self._engines, clock.threads, clock, self._chance)
        self._twin: AsyncResilientEngine | None = None

    @property
    def async_twin(self) -> AsyncResilientEngine:
        """The same policy, breakers and places for coroutines.

        Raises:
            InvalidInput: an engine has no `async_twin` of its own.
        """
        if self._twin is None:
            self._twin = AsyncResilientEngine(
                self, {name: _twin(name, engine) for name, engine in self._engines.items()}
            )
        return self._twin

    @property
    def breakers(self) -> dict[str, Breaker]:
        """The breakers by engine, to look at, open and close by hand."""
        return {name: guard.breaker for name, guard in self._guards.items() if guard.breaker}

    @property
    def alive(self) -> bool:
        """Whether a call made now would reach an engine of the chain."""
        return any(
            not (guard.breaker and guard.breaker.view().tried_again_in_s)
            and getattr(self._engines[name], "alive", True)
            for name, guard in self._guards.items()
        )

    def samples(self) -> list[Event]:
        """How its guards and engines stand now, as events for metrics."""
        found: list[Event] = []
        for name, guard in self._guards.items():
            state = guard.breaker.view().state if guard.breaker else ""
            found.append(GuardSampled(name, guard.gate.running, guard.gate.queued, state))
            inner = getattr(self._engines[name], "samples", None)
            found += inner() if inner else ()
        return found

    def complete(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            An error of DSPy's engine contract, within the policy's deadline if it has one.
        """
        return finish(self._chain.complete(request))

    def stream(self, request: Request) -> Generator[StreamEvent, None, None]:
        """Answer a request piece by piece.

        Raises:
            As `complete`. After the first token an error is final.
        """
        return finish_each(self._chain.stream(request))

    def close(self) -> None:
        """Close the engines."""
        with ExitStack() as closing:
            for engine in self._engines.values():
                closing.callback(engine.close)

    def dump_state(self) -> dict[str, Any]:
        """The policy and its engines' states, as JSON; no clock, storage or listeners.

        Raises:
            InvalidInput: an engine cannot be saved.
        """
        return {
            "policy": policy_data(self.policy),
            "engines": {name: _dumped(name, each) for name, each in self._engines.items()},
        }

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Self:
        """Build it again. This imports the engines' classes, so load only what you trust."""
        engines = {name: _loaded(each) for name, each in state["engines"].items()}
        return cls(read_policy(state["policy"]), engines)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("supports_") or name in ("supported_params", "model_string"):
            return getattr(self._engines[self.policy.primary], name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # DSPy deep-copies programs with their model; engines and breakers must stay shared.
        return self


class AsyncResilientEngine:
    """`ResilientEngine` for coroutines; made by its `async_twin`."""

    def __init__(self, sync_twin: ResilientEngine, engines: Mapping[str, AsyncEngine]) -> None:
        self._sync = sync_twin
        self._engines = engines
        policy, clock = sync_twin.policy, sync_twin.clock
        self._chain = Chain(
            policy, sync_twin._guards, engines, clock.tasks, clock, sync_twin._chance
        )

    async def complete(self, request: Request) -> Response:
        """Answer a request; see `ResilientEngine.complete`."""
        return await self._chain.complete(request)

    def stream(self, request: Request) -> AsyncGenerator[StreamEvent, None]:
        """Answer a request piece by piece; see `ResilientEngine.stream`."""
        return self._chain.stream(request)

    async def aclose(self) -> None:
        """Close the engines' twins."""
        async with AsyncExitStack() as closing:
            for engine in self._engines.values():
                closing.push_async_callback(engine.aclose)

    def dump_state(self) -> dict[str, Any]:
        """The state of its twin for threads."""
        return self._sync.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> AsyncResilientEngine:
        """Build it again; see `ResilientEngine.load_state`."""
        return ResilientEngine.load_state(state).async_twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def answered_by(response: Response) -> str | None:
    """The name of the engine that gave an answer; None if no policy was in between."""
    data = response.provider_data
    name = data.get(ANSWERED_BY) if isinstance(data, dict) else None
    return None if name is None else str(name)


def _check_names(policy: Policy, engines: Mapping[str, Engine]) -> None:
    for name in policy.engines:
        if name not in engines:
            raise InvalidInput(
                f"the policy names an engine {name!r} and none is given; {nearest(name, engines)}"
            )
    for name in engines:
        if name not in policy.engines:
            raise InvalidInput(
                f"an engine {name!r} is given and the policy does not name it; "
                f"{nearest(name, policy.engines)}"
            )


def _twin(name: str, engine: Engine) -> AsyncEngine:
    twin: AsyncEngine | None = getattr(engine, "async_twin", None)
    if twin is None:
        raise InvalidInput(
            f"engine {name!r} ({type(engine).__name__}) has no async_twin, so the policy cannot "
            "serve coroutines; call it from threads, or give the engine one"
        )
    return twin


def _dumped(name: str, engine: Any) -> dict[str, Any]:
    if not hasattr(engine, "dump_state") or not hasattr(type(engine), "load_state"):
        raise InvalidInput(
            f"engine {name!r} ({type(engine).__name__}) cannot be saved: it has no dump_state and "
            "load_state; save the program without its language model"
        )
    kind = type(engine)
    return {"class": f"{kind.__module__}:{kind.__qualname__}", "state": engine.dump_state()}


def _loaded(record: Mapping[str, Any]) -> Engine:
    module, _, path = record["class"].partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    engine: Engine = found.load_state(record["state"])
    return engine
