"""A circuit breaker: leaves an engine alone while it fails, and tries it again with care.

States, storage and listeners are pybreaker's. Judging is done here, since pybreaker would hold a
lock during the call, count a cancelled call, and let every caller through as a probe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import pybreaker

from dspy_toolkit.events import BreakerChanged, emit
from dspy_toolkit.resilience.errors import CircuitOpen
from dspy_toolkit.resilience.policy import BreakerPolicy
from dspy_toolkit.resilience.storage import BreakerStorage
from dspy_toolkit.resilience.window import CallWindow, Tally, TimeWindow, Window

CLOSED = pybreaker.STATE_CLOSED
OPEN = pybreaker.STATE_OPEN
HALF_OPEN = pybreaker.STATE_HALF_OPEN

T = TypeVar("T")


class Time(Protocol):
    """The part of a clock that a breaker needs."""

    def now(self) -> float: ...

    def wall(self) -> float: ...


@dataclass(frozen=True)
class BreakerView:
    """A breaker as it is shown.

    Attributes:
        state: "closed", "open" or "half-open".
        tally: of the calls the next judgement rests on.
        tried_again_in_s: until probes are let through; 0 where calls may come now.
    """

    name: str
    state: str
    tally: Tally
    tried_again_in_s: float


class Breaker:
    """One engine's circuit. Threads and coroutines share it; no lock is held during a call.

    Args:
        name: of the engine.
        time: tells the time.
        storage: keeps the state; in memory when left out.
        listeners: pybreaker listeners; they hear `state_change`.
    """

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        time: Time,
        storage: BreakerStorage | None = None,
        listeners: Iterable[pybreaker.CircuitBreakerListener] = (),
    ) -> None:
        self.name = name
        self._policy = policy
        self._time = time
        self._storage = storage or pybreaker.CircuitMemoryStorage(CLOSED)
        self._circuit = pybreaker.CircuitBreaker(
            name=name,
            reset_timeout=policy.open_s,
            success_threshold=policy.probes,
            state_storage=self._storage,
            listeners=list(listeners),
        )
        self._lock = threading.RLock()
        self._untold: list[BreakerChanged] = []
        self._enter(self._circuit.current_state)

    def check(self) -> None:
        """Refuse early, without taking a probe's place.

        Raises:
            CircuitOpen: a call made now would not be let through.
        """
        self._locked(self._look)

    def admit(self) -> Permit:
        """Let one call through. Its permit must be settled once.

        Raises:
            CircuitOpen: the engine is left alone.
        """
        return self._locked(self._admit)

    def open(self) -> None:
        """Open the circuit by hand; after `open_s` probes try the engine as ever."""
        self._locked(self._open)

    def close(self) -> None:
        """Close the circuit by hand, with an empty window."""
        self._locked(self._close)

    def view(self) -> BreakerView:
        """The breaker as it is now."""
        return self._locked(self._view)

    def settle(self, permit: Permit, failed: bool, seconds: float) -> None:
        """Count a call that ended. Calls let through before the last change count for nothing."""
        self._locked(lambda: self._count(permit, failed, seconds))

    def forget(self, permit: Permit) -> None:
        """Count nothing; a probe's place is free again."""
        self._locked(lambda: self._return(permit))

    def _locked(self, action: Callable[[], T]) -> T:
        try:
            with self._lock:
                current = self._circuit.current_state
                if current != self._state:
                    self._adopt(current)
                return action()
        finally:
            if self._untold:
                self._tell()

    def _tell(self) -> None:
        with self._lock:
            changes, self._untold = self._untold, []
        for change in changes:
            emit(change)

    def _look(self) -> None:
        now = self._time.now()
        if self._state == OPEN and now < self._turns_at:
            raise CircuitOpen(self.name, self._turns_at - now)
        if self._state == HALF_OPEN and now >= self._turns_at:
            # Probes that never come back must not keep the circuit half-open for good.
            self._open()
            raise CircuitOpen(self.name, self._policy.open_s)
        if self._state == HALF_OPEN and self._probes_out >= self._policy.probes:
            raise CircuitOpen(self.name, None)

    def _admit(self) -> Permit:
        self._look()
        if self._state == OPEN:
            self._circuit.half_open()
            self._changed(HALF_OPEN)
        if self._state == HALF_OPEN:
            self._probes_out += 1
        return Permit(self, self._era)

    def _count(self, permit: Permit, failed: bool, seconds: float) -> None:
        if permit.era != self._era:
            return
        policy, now = self._policy, self._time.now()
        slow = policy.slow_call_s is not None and seconds > policy.slow_call_s
        self._window.add(now, failed, slow)
        tally = self._window.tally(now)
        needed = policy.probes if self._state == HALF_OPEN else policy.minimum_calls
        if tally.calls < needed:
            return
        if tally.failure_rate >= policy.failure_rate or (
            policy.slow_call_s is not None and tally.slow_rate >= policy.slow_rate
        ):
            self._open()
        elif self._state == HALF_OPEN:
            self._close()

    def _return(self, permit: Permit) -> None:
        if permit.era == self._era and self._state == HALF_OPEN:
            self._probes_out -= 1

    def _open(self) -> None:
        self._circuit.open()
        self._storage.opened_at = datetime.fromtimestamp(self._time.wall(), UTC)
        self._changed(OPEN)
        self._turns_at = self._time.now() + self._policy.open_s

    def _close(self) -> None:
        self._circuit.close()
        self._changed(CLOSED)

    def _adopt(self, state: str) -> None:
        # The storage was changed from elsewhere; asking for the state object makes pybreaker
        # tell its listeners.
        _ = self._circuit.state
        self._changed(state)

    def _changed(self, state: str) -> None:
        if state != self._state:
            self._untold.append(BreakerChanged(self.name, self._state, state))
        self._enter(state)

    def _enter(self, state: str) -> None:
        policy = self._policy
        self._state = state
        self._era = object()
        self._probes_out = 0
        self._window: Window = (
            CallWindow(policy.probes)
            if state == HALF_OPEN
            else TimeWindow(policy.window_s)
            if policy.window_s is not None
            else CallWindow(policy.window_calls or 1)
        )
        left_s = self._left_open_s() if state == OPEN else policy.open_s
        self._turns_at = self._time.now() + left_s

    def _left_open_s(self) -> float:
        opened_at = self._storage.opened_at
        if opened_at is None:
            return 0.0
        gone_s = self._time.wall() - opened_at.timestamp()
        # A wall clock may have been set back since; nobody waits longer than open_s for that.
        return min(max(self._policy.open_s - gone_s, 0.0), self._policy.open_s)

    def _view(self) -> BreakerView:
        now = self._time.now()
        left_s = max(self._turns_at - now, 0.0) if self._state == OPEN else 0.0
        return BreakerView(self.name, self._state, self._window.tally(now), left_s)


class Permit:
    """Leave to make one call. Settled once; further settling has no effect."""

    __slots__ = ("_breaker", "_open", "era")

    def __init__(self, breaker: Breaker, era: Any) -> None:
        self.era = era
        self._breaker = breaker
        self._open = True

    def ended(self, failed: bool, seconds: float) -> None:
        """The call ended after so long."""
        if self._open:
            self._open = False
            self._breaker.settle(self, failed, seconds)

    def cancelled(self) -> None:
        """The call was left, or says nothing about the engine."""
        if self._open:
            self._open = False
            self._breaker.forget(self)
