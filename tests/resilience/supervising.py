"""Supervised engines over puppets, quick to notice and to start again."""

from __future__ import annotations

from collections.abc import Callable

from dspy_toolkit.events import ChildEnded, Event
from dspy_toolkit.resilience import SupervisedEngine, SupervisionPolicy

QUICK = SupervisionPolicy(
    beat_s=0.1,
    silent_s=1.5,
    first_token_s=2.0,
    between_tokens_s=2.0,
    first_wait_s=0.01,
    max_wait_s=0.05,
    stable_s=0.5,
    rest_s=30.0,
    crashes=20,
)
PATIENCE_S = 60.0

Start = Callable[..., SupervisedEngine]


def reasons(events: list[Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, ChildEnded)]
