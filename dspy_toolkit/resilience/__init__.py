"""Calls that survive: bounded, repeated, broken off and answered by another engine if need be.

Names are imported when they are first asked for, since most of them bring DSPy along.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspy_toolkit.resilience.answers import AnswerMemory, FixedAnswer
    from dspy_toolkit.resilience.breaker import Breaker, BreakerView
    from dspy_toolkit.resilience.deadline import within
    from dspy_toolkit.resilience.engine import AsyncResilientEngine, ResilientEngine, answered_by
    from dspy_toolkit.resilience.faulty import FaultyEngine
    from dspy_toolkit.resilience.manual_clock import ManualClock, WouldHang
    from dspy_toolkit.resilience.policy import (
        BreakerPolicy,
        BulkheadPolicy,
        EnginePolicy,
        Policy,
        RetryPolicy,
        SheddingPolicy,
        TimeoutPolicy,
    )
    from dspy_toolkit.resilience.reading import load_policy, policy_data, read_policy
    from dspy_toolkit.resilience.remote import RemoteEngine
    from dspy_toolkit.resilience.storage import FileStorage, stored_in
    from dspy_toolkit.resilience.supervised.engine import SupervisedEngine
    from dspy_toolkit.resilience.supervised.opening import Opening
    from dspy_toolkit.resilience.supervised.policy import SupervisionPolicy

_PLACES = {
    "AnswerMemory": "answers",
    "AsyncResilientEngine": "engine",
    "Breaker": "breaker",
    "BreakerPolicy": "policy",
    "BreakerView": "breaker",
    "BulkheadPolicy": "policy",
    "EnginePolicy": "policy",
    "FaultyEngine": "faulty",
    "FileStorage": "storage",
    "FixedAnswer": "answers",
    "ManualClock": "manual_clock",
    "Opening": "supervised.opening",
    "Policy": "policy",
    "RemoteEngine": "remote",
    "ResilientEngine": "engine",
    "RetryPolicy": "policy",
    "SheddingPolicy": "policy",
    "SupervisedEngine": "supervised.engine",
    "SupervisionPolicy": "supervised.policy",
    "TimeoutPolicy": "policy",
    "WouldHang": "manual_clock",
    "answered_by": "engine",
    "load_policy": "reading",
    "policy_data": "reading",
    "read_policy": "reading",
    "stored_in": "storage",
    "within": "deadline",
}

__all__ = [
    "AnswerMemory",
    "AsyncResilientEngine",
    "Breaker",
    "BreakerPolicy",
    "BreakerView",
    "BulkheadPolicy",
    "EnginePolicy",
    "FaultyEngine",
    "FileStorage",
    "FixedAnswer",
    "ManualClock",
    "Opening",
    "Policy",
    "RemoteEngine",
    "ResilientEngine",
    "RetryPolicy",
    "SheddingPolicy",
    "SupervisedEngine",
    "SupervisionPolicy",
    "TimeoutPolicy",
    "WouldHang",
    "answered_by",
    "load_policy",
    "policy_data",
    "read_policy",
    "stored_in",
    "within",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
