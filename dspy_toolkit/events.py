"""Typed events: the only road to metrics, logs, progress and history.

Whatever happens is one frozen record, emitted once. Subscribers run on the emitting thread, so
they must be quick and must not raise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, slots=True)
class ModelLoaded(Event):
    """Weights are in memory and ready; `note` says what of the engine the model cannot have."""

    model: str
    device: str
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class CallFinished(Event):
    """A model call ended, answered from the cache or by an engine, well or with an error.

    `run` is the run it was made for, where there is one.
    """

    model: str
    seconds: float
    input_tokens: int
    output_tokens: int
    cached: bool
    error: str | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationFinished(Event):
    """An engine completed an answer. `finish_reason` is "stop" or "length".

    `run` is the run it was made for, where there is one.
    """

    model: str
    input_tokens: int
    output_tokens: int
    seconds_to_first: float
    seconds: float
    finish_reason: str
    run: str | None = None


@dataclass(frozen=True, slots=True)
class RequestFinished(Event):
    """A served program, or a model served under a name, was asked, and answered or failed.

    `version` is the program's, empty where it has none. `error` is the kind of failure, and
    `first_token_s` is known where the answer was streamed.
    """

    program: str
    version: str
    seconds: float
    error: str | None = None
    first_token_s: float | None = None


@dataclass(frozen=True, slots=True)
class PredictionServed(Event):
    """A served program was called where a prediction cache stands; `cached`: it had the answer."""

    program: str
    version: str
    cached: bool


@dataclass(frozen=True, slots=True)
class VersionSwitched(Event):
    """A server answers with another version from now on; `before` is empty for the first one."""

    program: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class VersionRefused(Event):
    """A version was to be served and is not; what was served before still is."""

    program: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class RequestRefused(Event):
    """A request got no further than the door.

    `reason` is "key", "scope", "rate", "full", "size", "slow", "host" or "stopping".
    """

    reason: str


@dataclass(frozen=True, slots=True)
class RequestBroken(Event):
    """A request met what nobody foresaw. `error` is its kind: what was asked is told nowhere."""

    request: str
    error: str


@dataclass(frozen=True, slots=True)
class EngineSampled(Event):
    """How an engine stands, looked up now and then; the counts run since its model was loaded.

    `running` calls wait or decode. `read` and `reused` are tokens of prompts, `decoded` and
    `forced` of answers; `rows_run` rows took part in `runs` of the model. `memory_bytes` is what
    its process holds, in main memory or on the device, whichever is more; 0 is an unknown limit.
    """

    model: str
    running: int
    read: int
    reused: int
    decoded: int
    forced: int
    runs: int
    rows_run: int
    memory_bytes: int
    memory_limit_bytes: int


@dataclass(frozen=True, slots=True)
class GuardSampled(Event):
    """How a guarded engine stands: calls running and in line, and its circuit, "" for none."""

    engine: str
    running: int
    queued: int
    breaker: str


@dataclass(frozen=True, slots=True)
class ChildStarted(Event):
    """A supervised engine's process has its model loaded and takes calls."""

    engine: str
    process: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ChildEnded(Event):
    """A supervised engine's process is gone and will be replaced.

    `reason` is "crashed", "stopped", "no_heartbeat", "first_token", "between_tokens", "memory"
    or "not_loaded". Of the calls in flight, `replayed` are made again and `failed` are not. `how`
    is known of one that was not ended by its supervisor: "killed by signal 9", "exit status 1".
    """

    engine: str
    reason: str
    replayed: int
    failed: int
    how: str = ""


@dataclass(frozen=True, slots=True)
class EngineDied(Event):
    """An engine's thread ended by an error; every call of it fails from now on."""

    model: str
    error: str


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """A compile run has its folder and its row in the history."""

    run: str
    task: str
    optimizer: str


@dataclass(frozen=True, slots=True)
class JournalOpened(Event):
    """A compile run goes on from the calls that it, or the run it was forked from, made before.

    `damaged` of its records could not be read, and `forgotten` had failed; they are made again.
    """

    run: str
    kept: int
    damaged: int
    forgotten: int

    @property
    def text(self) -> str:
        """What people are told."""
        text = f"run {self.run} goes on from {self.kept} calls"
        if self.damaged:
            lost = "1 damaged record" if self.damaged == 1 else f"{self.damaged} damaged records"
            text += f"; {lost} of its journal could not be read"
        if self.forgotten:
            text += f"; {self.forgotten} calls that failed are made again"
        return text


@dataclass(frozen=True, slots=True)
class PhaseStarted(Event):
    """A run entered a phase: `baseline`, `optimize`, `test`, or `evaluate` where it is alone.

    `total` counts its steps, where it is known.
    """

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
class CandidateScored(Event):
    """An optimizer scored a candidate on the validation split.

    `candidate` counts from 1, `score` and `scores` (one an example) lie in [0, 1], and the calls
    are those of the run so far.
    """

    run: str
    candidate: int
    score: float
    scores: tuple[float, ...]
    calls_made: int
    calls_cached: int


@dataclass(frozen=True, slots=True)
class ProposalSkipped(Event):
    """A proposal of the prompt model could not be used: an instruction, a rule, advice."""

    run: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """A compile run ended. `error` is None when it has a result."""

    run: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptFinished(Event):
    """A guarded engine was asked once. `first_token_s` is known where tokens were watched.

    `error` is the kind of failure, None for a good answer, "cancelled" for a caller that left.
    """

    engine: str
    seconds: float
    error: str | None
    first_token_s: float | None = None


@dataclass(frozen=True, slots=True)
class CallRetried(Event):
    """An engine failed with an error that may pass and is asked again after `wait_s`."""

    engine: str
    attempt: int
    wait_s: float
    error: str


@dataclass(frozen=True, slots=True)
class FallbackUsed(Event):
    """One engine gave no answer, so the next one is asked."""

    engine: str
    fallback: str
    error: str


@dataclass(frozen=True, slots=True)
class CallShed(Event):
    """A call was refused before it reached its engine.

    `reason` is "circuit_open", "full", "queue_timeout" or "deadline".
    """

    engine: str
    reason: str


@dataclass(frozen=True, slots=True)
class CallTimedOut(Event):
    """An attempt was given up on.

    `limit` is "first_token", "between_tokens", "whole" or "deadline".
    """

    engine: str
    limit: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LateAnswerDropped(Event):
    """An attempt that was given up on has ended at last; its place is free again."""

    engine: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BreakerChanged(Event):
    """A circuit went from one of "closed", "open", "half-open" to another."""

    engine: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class BreakerStateLost(Event):
    """A circuit's state could not be kept or read; it goes on in memory alone."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class TrainingStepped(Event):
    """A training step is done.

    `loss` is the mean since the last point of the curve, in nats a token for a language model.
    """

    run: str
    step: int
    steps: int
    loss: float
    tokens_per_s: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class TrainingEvaluated(Event):
    """A model in training was evaluated on its validation data."""

    run: str
    step: int
    loss: float


@dataclass(frozen=True, slots=True)
class CheckpointSaved(Event):
    """A checkpoint is whole and on disk."""

    run: str
    step: int
    path: str
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CheckpointDamaged(Event):
    """A checkpoint does not match its digests; it was set aside and an older one is used."""

    run: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class HistoryRebuilt(Event):
    """The run history was damaged: it is kept under a name of its own, and was made anew.

    `runs` rows come from the runs' folders.
    """

    kept: str
    runs: int


@dataclass(frozen=True, slots=True)
class RunResumed(Event):
    """A run that had stopped goes on from a step; from 0 where no checkpoint of it is sound."""

    run: str
    step: int


@dataclass(frozen=True, slots=True)
class ModelCompressed(Event):
    """A technique has made a model, and its folder is whole."""

    folder: str
    technique: str
    seconds: float


Handler = Callable[[Event], None]

# The run that what happens here and now belongs to, where there is one.
current_run: ContextVar[str | None] = ContextVar("dspy_toolkit_run", default=None)

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
