"""The breaker as a state machine, held against a model that keeps everything in lists."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dspy_toolkit.resilience import Breaker, BreakerPolicy, ManualClock
from dspy_toolkit.resilience.breaker import Permit
from dspy_toolkit.resilience.errors import CircuitOpen

policies = st.builds(
    BreakerPolicy,
    window_calls=st.integers(4, 8),
    minimum_calls=st.integers(1, 4),
    failure_rate=st.sampled_from([0.25, 0.5, 1.0]),
    slow_call_s=st.sampled_from([None, 1.0]),
    slow_rate=st.sampled_from([0.5, 1.0]),
    open_s=st.just(10.0),
    probes=st.integers(1, 3),
) | st.builds(
    BreakerPolicy,
    window_s=st.just(10.0),
    minimum_calls=st.integers(1, 4),
    failure_rate=st.sampled_from([0.25, 0.5, 1.0]),
    open_s=st.just(10.0),
    probes=st.integers(1, 3),
)


@dataclass
class Model:
    """What the documentation says, in the plainest way."""

    policy: BreakerPolicy
    state: str = "closed"
    changed_at: float = 0.0
    era: int = 0
    ended: list[tuple[float, bool, bool]] = field(default_factory=list)
    probes_out: int = 0

    def enter(self, state: str, now: float) -> None:
        self.state, self.changed_at, self.ended, self.probes_out = state, now, [], 0
        self.era += 1

    def admit(self, now: float) -> bool:
        over = now - self.changed_at >= self.policy.open_s
        if self.state == "open" and over:
            self.enter("half-open", now)
        elif self.state == "half-open" and over:
            self.enter("open", now)
        if self.state == "half-open" and self.probes_out < self.policy.probes:
            self.probes_out += 1
            return True
        return self.state == "closed"

    def end(self, era: int, now: float, failed: bool, seconds: float) -> None:
        if era != self.era:
            return
        slow = self.policy.slow_call_s is not None and seconds > self.policy.slow_call_s
        self.ended.append((now, failed, slow))
        counted = self.counted(now)
        enough = self.policy.probes if self.state == "half-open" else self.policy.minimum_calls
        if len(counted) < enough:
            return
        failures = sum(failed for _, failed, _ in counted) / len(counted)
        slowness = sum(slow for *_, slow in counted) / len(counted)
        if failures >= self.policy.failure_rate or (
            self.policy.slow_call_s is not None and slowness >= self.policy.slow_rate
        ):
            self.enter("open", now)
        elif self.state == "half-open":
            self.enter("closed", now)

    def cancel(self, era: int) -> None:
        if era == self.era and self.state == "half-open":
            self.probes_out -= 1

    def counted(self, now: float) -> list[tuple[float, bool, bool]]:
        if self.state == "half-open":
            return self.ended
        if self.policy.window_s is None:
            return self.ended[-(self.policy.window_calls or 1) :]
        width = self.policy.window_s / 10
        return [
            call
            for call in self.ended
            if math.floor(call[0] / width) > math.floor(now / width) - 10
        ]


class BreakerMachine(RuleBasedStateMachine):
    @initialize(policy=policies)
    def start(self, policy: BreakerPolicy) -> None:
        self.clock = ManualClock(start=0.0)
        self.breaker = Breaker("engine", policy, self.clock)
        self.model = Model(policy)
        self.calls: list[tuple[Permit, int]] = []

    @rule()
    def call(self) -> None:
        expected = self.model.admit(self.clock.now())
        try:
            permit = self.breaker.admit()
        except CircuitOpen:
            assert not expected
        else:
            assert expected

            self.calls.append((permit, self.model.era))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), failed=st.booleans(), seconds=st.sampled_from([0.1, 1.0, 2.0]))
    def end(self, data: Any, failed: bool, seconds: float) -> None:
        permit, era = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.model.end(era, self.clock.now(), failed, seconds)
        permit.ended(failed, seconds)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        permit, era = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.model.cancel(era)
        permit.cancelled()

    @rule(seconds=st.sampled_from([0.25, 1.0, 4.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def open_by_hand(self) -> None:
        self.model.enter("open", self.clock.now())
        self.breaker.open()

    @rule()
    def close_by_hand(self) -> None:
        self.model.enter("closed", self.clock.now())
        self.breaker.close()

    @invariant()
    def shows_what_the_model_holds(self) -> None:
        view = self.breaker.view()
        counted = self.model.counted(self.clock.now())

        assert view.state == self.model.state
        assert view.tally.calls == len(counted)
        assert view.tally.failed == sum(failed for _, failed, _ in counted)
        assert view.tally.slow == sum(slow for *_, slow in counted)


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBreaker = BreakerMachine.TestCase
