"""Every metric there is: its name, kind, labels and meaning. Documents and registry follow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# From a cached answer to the longest generation, in seconds.
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


@dataclass(frozen=True)
class MetricFacts:
    """One metric.

    Attributes:
        name: as scraped; a counter's ends in `_total`.
        labels: none of them ever holds a prompt, an answer, a user, a key or the id of a run.
        meaning: one line.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str


def _counter(name: str, labels: str, meaning: str) -> MetricFacts:
    return MetricFacts(f"dspy_tk_{name}_total", "counter", tuple(labels.split()), meaning)


def _gauge(name: str, labels: str, meaning: str) -> MetricFacts:
    return MetricFacts(f"dspy_tk_{name}", "gauge", tuple(labels.split()), meaning)


def _seconds(name: str, labels: str, meaning: str) -> MetricFacts:
    return MetricFacts(f"dspy_tk_{name}_seconds", "histogram", tuple(labels.split()), meaning)


REQUESTS = _counter("requests", "program version", "requests to served programs and models")
REQUEST_ERRORS = _counter("request_errors", "program version kind", "those that failed, by kind")
REQUEST_SECONDS = _seconds("request", "program version", "from a request to its whole answer")
REQUEST_FIRST = _seconds(
    "request_first_token", "program version", "from a request to the first piece of its answer"
)
REFUSED = _counter("refused_requests", "reason", "requests that got no further than the door")
BROKEN = _counter("broken_requests", "", "requests that met what nobody foresaw")
PREDICTIONS = _counter("predictions", "program version cached", "calls where answers are kept")
SWITCHES = _counter("version_switches", "program", "times a program's version was replaced")
VERSIONS_REFUSED = _counter("versions_refused", "program", "versions that failed their check")

CALLS = _counter("calls", "model", "calls that programs made of language models")
CALL_ERRORS = _counter("call_errors", "model kind", "those that failed, by kind")
CALL_SECONDS = _seconds("call", "model", "a call, answered from the cache or by an engine")
CACHE_HITS = _counter("cache_hits", "model", "calls answered from the cache")
INPUT_TOKENS = _counter("input_tokens", "model", "tokens of prompts that engines answered")
OUTPUT_TOKENS = _counter("output_tokens", "model", "tokens of their answers")

GENERATIONS = _counter("generations", "model reason", "answers a local engine completed, by end")
GENERATION_SECONDS = _seconds("generation", "model", "an answer, its wait for a row included")
FIRST_TOKEN = _seconds("first_token", "model", "from a call to the first token of its answer")
READ_TOKENS = _counter("read_tokens", "model", "prompt tokens that went through the model")
REUSED_TOKENS = _counter("reused_tokens", "model", "prompt tokens that had been read before")
DECODED_TOKENS = _counter("decoded_tokens", "model", "answer tokens drawn from the model")
FORCED_TOKENS = _counter("forced_tokens", "model", "answer tokens a grammar left no choice about")
RUNNING = _gauge("running_calls", "model", "calls that wait or decode in an engine")
BATCH_ROWS = _gauge("batch_rows", "model", "rows a run of the model, since the last look")
MEMORY = _gauge("memory_bytes", "model", "memory of the process or device that a model is in")
MEMORY_LIMIT = _gauge("memory_limit_bytes", "model", "what it may hold")
LOAD_SECONDS = _gauge("model_load_seconds", "model", "how long its last loading took")
ENGINE_DEATHS = _counter("engine_deaths", "model", "engine threads that ended by an error")

ATTEMPTS = _counter("attempts", "engine outcome", "guarded attempts: ok, or the kind of failure")
ATTEMPT_SECONDS = _seconds("attempt", "engine", "a guarded attempt, however it ended")
RETRIES = _counter("retries", "engine kind", "attempts made again, by what failed before")
FALLBACKS = _counter("fallbacks", "engine fallback kind", "fallbacks asked, by what failed before")
SHED = _counter("shed_calls", "engine reason", "calls refused before they reached their engine")
TIMEOUTS = _counter("timeouts", "engine limit", "attempts given up on, by the limit passed")
LATE_ANSWERS = _counter("late_answers", "engine", "attempts that ended after they were given up on")
GUARD_RUNNING = _gauge("guard_running_calls", "engine", "calls that hold a place of a bulkhead")
GUARD_QUEUED = _gauge("guard_queued_calls", "engine", "calls in line for one")
BREAKER_STATE = _gauge("breaker_state", "engine", "0 closed, 1 half-open, 2 open")
BREAKER_OPENED = _counter("breaker_openings", "engine", "times a circuit opened")
BREAKER_LOST = _counter("breaker_state_losses", "", "times a circuit's state could not be kept")

RESTARTS = _counter("child_restarts", "engine reason", "processes of a supervised engine lost")
CHILD_UP = _gauge("child_up", "engine", "1 while a supervised engine's process takes calls")
CHILD_START = _gauge("child_start_seconds", "engine", "how long its last start took")
CHILD_CALLS = _counter(
    "child_interrupted_calls", "engine outcome", "calls a lost process held: replayed or failed"
)

RUNS = _counter("runs", "outcome", "compile and training runs that ended: ok or failed")
PROCESS_MEMORY = _gauge("process_memory_bytes", "", "resident memory of this process")
PROCESS_THREADS = _gauge("process_threads", "", "its threads")
PROCESS_HANDLES = _gauge("process_file_handles", "", "its open file handles")

CATALOG: tuple[MetricFacts, ...] = tuple(
    each for each in list(globals().values()) if isinstance(each, MetricFacts)
)
