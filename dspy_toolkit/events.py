"""Typed events: the only road to metrics, logs, progress and history.

Whatever happens is one frozen record, emitted once. Subscribers run on the emitting thread, so
they must be quick and must not raise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class ModelLoaded(Event):
    """Weights are in memory and ready."""

    model: str
    device: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CallFinished(Event):
    """A model call ended, answered from the cache or by an engine, well or with an error."""

    model: str
    seconds: float
    input_tokens: int
    output_tokens: int
    cached: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationFinished(Event):
    """An engine completed an answer. `finish_reason` is "stop" or "length"."""

    model: str
    input_tokens: int
    output_tokens: int
    seconds_to_first: float
    seconds: float
    finish_reason: str


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """A compile run has its folder and its row in the history."""

    run: str
    task: str
    optimizer: str


@dataclass(frozen=True, slots=True)
class PhaseStarted(Event):
    """A run entered a phase: `baseline`, `optimize` or `test`. `total` counts its steps."""

    run: str
    phase: str
    total: int | None


@dataclass(frozen=True, slots=True)
class PhaseAdvanced(Event):
    """Steps of a phase are done. `score` is the mean so far, in [0, 1], where one is known."""

    run: str
    phase: str
    done: int
    score: float | None


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """A compile run ended. `error` is None when it has a result."""

    run: str
    seconds: float
    error: str | None = None


Handler = Callable[[Event], None]

_lock = threading.Lock()
_handlers: tuple[Handler, ...] = ()


def emit(event: Event) -> None:
    """Hand an event to every subscriber, in the order they subscribed."""
    for handler in _handlers:
        handler(event)


@contextmanager
def subscribed(handler: Handler) -> Iterator[None]:
    """Hear every event emitted in this process while the block runs."""
    global _handlers
    with _lock:
        _handlers = (*_handlers, handler)
    try:
        yield
    finally:
        with _lock:
            kept = list(_handlers)
            kept.remove(handler)
            _handlers = tuple(kept)
