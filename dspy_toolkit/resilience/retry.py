"""When an engine is asked again, and after how long: tenacity, told what the policy says."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from dspy_toolkit.contract import LM15Error
from dspy_toolkit.events import CallRetried, emit
from dspy_toolkit.resilience.call import Visit
from dspy_toolkit.resilience.errors import kind_of, may_pass
from dspy_toolkit.resilience.policy import RetryPolicy

R = TypeVar("R")
Ask = Callable[..., Awaitable[R]]


class Retry:
    """Asks one engine until it answers or its policy has had enough.

    Args:
        now: the policy's clock.
        chance: draws the jitter.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        now: Callable[[], float],
        chance: random.Random,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._policy = policy
        self._now = now
        self._chance = chance
        # Threads and tasks may share it in call form, and only so.
        self._retrying = AsyncRetrying(
            retry=retry_if_exception(may_pass),
            wait=self._wait_s,
            stop=self._must_stop,
            sleep=sleep,
            before_sleep=_tell,
            reraise=True,
        )

    async def __call__(self, ask: Ask[R], visit: Visit, *others: Any) -> R:
        """The result of `ask(visit, *others)`, or its last error as it is."""
        try:
            return await ask(visit, *others)
        except LM15Error as error:
            if not may_pass(error):
                raise
            first = error
        # tenacity is told of the first attempt instead of making it: it costs more than all the
        # rest of a guarded call, and most calls need no second attempt.
        result: R = await self._retrying(_resumed(first, ask), visit, *others)
        return result

    def _wait_s(self, state: RetryCallState) -> float:
        policy = self._policy
        # Doubling without a cap would overflow a float long before anyone had waited so long.
        doublings = min(state.attempt_number - 1, 64)
        planned_s = min(policy.first_wait_s * 2.0**doublings, policy.max_wait_s)
        jittered_s = planned_s * (1.0 - policy.jitter * self._chance.random())
        asked_s: float | None = getattr(_error(state), "retry_after", None)
        return max(jittered_s, asked_s or 0.0)

    def _must_stop(self, state: RetryCallState) -> bool:
        visit: Visit = state.args[0]
        return (
            visit.left < 1
            or state.upcoming_sleep > self._policy.max_wait_s
            or self._now() + state.upcoming_sleep >= visit.due
        )


def _resumed(first: LM15Error, ask: Ask[R]) -> Ask[R]:
    known = [first]

    async def resumed(*args: Any) -> R:
        if known:
            raise known.pop()
        return await ask(*args)

    return resumed


def _tell(state: RetryCallState) -> None:
    visit: Visit = state.args[0]
    error = kind_of(_error(state))
    emit(CallRetried(visit.engine, state.attempt_number, state.upcoming_sleep, error))


def _error(state: RetryCallState) -> Any:
    return state.outcome.exception() if state.outcome else None
