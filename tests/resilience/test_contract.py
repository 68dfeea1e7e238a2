"""Guarded and faulty engines keep the contract that every engine keeps."""

from __future__ import annotations

from typing import Any

import pytest

from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.resilience import (
    EnginePolicy,
    FaultyEngine,
    ManualClock,
    Policy,
    ResilientEngine,
    RetryPolicy,
    TimeoutPolicy,
)
from tests.conformance.engine_contract import EngineContract


def scripted() -> ScriptedEngine:
    return ScriptedEngine(lambda text: f"You asked:\n{text[-40:]}\nI know nothing.", context=500)


def guarded(timeouts: TimeoutPolicy, deadline_s: float | None = None) -> ResilientEngine:
    policy = EnginePolicy(timeouts=timeouts, retry=RetryPolicy(attempts=1))
    return ResilientEngine(
        Policy("local", {"local": policy}, deadline_s=deadline_s), {"local": scripted()}
    )


class Contract(EngineContract):
    @pytest.fixture
    def too_long(self) -> str:
        return "word " * 200


class TestGuardedWithoutLimits(Contract):
    @pytest.fixture
    def engine(self) -> Any:
        return guarded(TimeoutPolicy())


class TestGuardedWithTimeouts(Contract):
    @pytest.fixture
    def engine(self) -> Any:
        return guarded(TimeoutPolicy(whole_s=20.0), deadline_s=30.0)


class TestGuardedByTokens(Contract):
    @pytest.fixture
    def engine(self) -> Any:
        return guarded(TimeoutPolicy(first_token_s=20.0, between_tokens_s=20.0))


class TestFaulty(Contract):
    @pytest.fixture
    def engine(self) -> Any:
        return FaultyEngine(scripted(), ManualClock())


del Contract, EngineContract
