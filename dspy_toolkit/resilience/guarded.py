"""What is known and allowed of one guarded engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pybreaker

from dspy_toolkit.contract import Request, Response
from dspy_toolkit.resilience.breaker import Breaker
from dspy_toolkit.resilience.clock import Clock
from dspy_toolkit.resilience.gate import Gate
from dspy_toolkit.resilience.pace import Pace
from dspy_toolkit.resilience.policy import EnginePolicy
from dspy_toolkit.resilience.storage import BreakerStorage

Accept = Callable[[Request, Response], bool]


class Guarded:
    """An engine's places, pace and breaker, for threads and coroutines together.

    Args:
        name: of the engine.
        storage: keeps the breaker's state.
        listeners: pybreaker listeners.
        accept: looks at each answer of `complete`; a refused one is a failed attempt.
    """

    def __init__(
        self,
        name: str,
        policy: EnginePolicy,
        clock: Clock,
        storage: BreakerStorage | None = None,
        listeners: Iterable[pybreaker.CircuitBreakerListener] = (),
        accept: Accept | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.clock = clock
        self.accept = accept
        self.gate = Gate(name, policy.bulkhead)
        self.pace = Pace(policy.shedding) if policy.shedding else None
        self.breaker = (
            Breaker(name, policy.breaker, clock, storage, listeners) if policy.breaker else None
        )
