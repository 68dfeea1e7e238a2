"""Metrics: a Prometheus registry that is kept by hearing events, and by nothing else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from dspy_toolkit import events as ev
from dspy_toolkit.monitoring import catalog as m
from dspy_toolkit.monitoring.catalog import CATALOG, SECONDS, MetricFacts

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""What `Metrics.exposition` is, for the head of an HTTP reply."""

OTHER = "other"
"""What label values become once a metric has as many series as it may."""

SERIES = 200
_LONGEST_LABEL = 120
_BREAKER = {"closed": 0, "half-open": 1, "open": 2}
_OK = "ok"

Source = Callable[[], Iterable[ev.Event]]
_Labels = tuple[str, ...]


class Metrics:
    """The metrics of a process. It is a subscriber: `with subscribed(metrics): ...`.

    Args:
        series: of one metric at most. Beyond, label values become "other", so that whatever names
            programs and models have, a scrape stays small.
    """

    def __init__(self, series: int = SERIES) -> None:
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._metrics = {facts: _Metric(facts, self.registry, series) for facts in CATALOG}
        self._sources: tuple[Source, ...] = ()
        self._last: dict[str, ev.EngineSampled] = {}
        self._handlers: dict[type[ev.Event], Callable[[Any], None]] = {
            ev.RequestFinished: self._request,
            ev.PredictionServed: lambda e: self._count(
                m.PREDICTIONS, e.program, e.version, str(e.cached).lower()
            ),
            ev.VersionSwitched: lambda e: self._count(m.SWITCHES, e.program),
            ev.VersionRefused: lambda e: self._count(m.VERSIONS_REFUSED, e.program),
            ev.RequestRefused: lambda e: self._count(m.REFUSED, e.reason),
            ev.RequestBroken: lambda e: self._count(m.BROKEN),
            ev.CallFinished: self._call,
            ev.GenerationFinished: self._generation,
            ev.EngineSampled: self._engine,
            ev.ModelLoaded: lambda e: self._set(m.LOAD_SECONDS, e.seconds, e.model),
            ev.EngineDied: lambda e: self._count(m.ENGINE_DEATHS, e.model),
            ev.AttemptFinished: self._attempt,
            ev.CallRetried: lambda e: self._count(m.RETRIES, e.engine, e.error),
            ev.FallbackUsed: lambda e: self._count(m.FALLBACKS, e.engine, e.fallback, e.error),
            ev.CallShed: lambda e: self._count(m.SHED, e.engine, e.reason),
            ev.CallTimedOut: lambda e: self._count(m.TIMEOUTS, e.engine, e.limit),
            ev.LateAnswerDropped: lambda e: self._count(m.LATE_ANSWERS, e.engine),
            ev.GuardSampled: self._guard,
            ev.BreakerChanged: self._breaker,
            ev.BreakerStateLost: lambda e: self._count(m.BREAKER_LOST),
            ev.ChildStarted: self._child_started,
            ev.ChildEnded: self._child_ended,
            ev.RunFinished: lambda e: self._count(m.RUNS, "failed" if e.error else _OK),
        }

    def __call__(self, event: ev.Event) -> None:
        """Hear an event."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    @contextlib.contextmanager
    def watching(self, source: Source) -> Iterator[None]:
        """Ask for events at every scrape in the block: what is sampled and does not happen.

        Args:
            source: an engine's `samples`, for example. It must be quick and must not raise.
        """
        with self._lock:
            self._sources = (*self._sources, source)
        try:
            yield
        finally:
            with self._lock:
                kept = list(self._sources)
                kept.remove(source)
                self._sources = tuple(kept)

    def exposition(self) -> bytes:
        """Everything in Prometheus's text format, as of now."""
        for source in self._sources:
            for event in source():
                self(event)
        process = psutil.Process()
        self._set(m.PROCESS_MEMORY, process.memory_info().rss)
        self._set(m.PROCESS_THREADS, process.num_threads())
        self._set(m.PROCESS_HANDLES, process.num_fds())
        return bytes(generate_latest(self.registry))

    @property
    def series(self) -> int:
        """How many series there are, a histogram's counted once."""
        return sum(metric.count for metric in self._metrics.values())

    def _count(self, facts: MetricFacts, *labels: str, by: float = 1.0) -> None:
        self._metrics[facts].at(labels).inc(by)

    def _set(self, facts: MetricFacts, value: float, *labels: str) -> None:
        self._metrics[facts].at(labels).set(value)

    def _see(self, facts: MetricFacts, seconds: float, *labels: str) -> None:
        self._metrics[facts].at(labels).observe(seconds)

    def _request(self, event: ev.RequestFinished) -> None:
        who = event.program, event.version
        self._count(m.REQUESTS, *who)
        self._see(m.REQUEST_SECONDS, event.seconds, *who)
        if event.error is not None:
            self._count(m.REQUEST_ERRORS, *who, event.error)
        if event.first_token_s is not None:
            self._see(m.REQUEST_FIRST, event.first_token_s, *who)

    def _call(self, event: ev.CallFinished) -> None:
        self._count(m.CALLS, event.model)
        self._see(m.CALL_SECONDS, event.seconds, event.model)
        if event.error is not None:
            self._count(m.CALL_ERRORS, event.model, event.error)
        if event.cached:
            self._count(m.CACHE_HITS, event.model)
        self._count(m.INPUT_TOKENS, event.model, by=event.input_tokens)
        self._count(m.OUTPUT_TOKENS, event.model, by=event.output_tokens)

    def _generation(self, event: ev.GenerationFinished) -> None:
        self._count(m.GENERATIONS, event.model, event.finish_reason)
        self._see(m.GENERATION_SECONDS, event.seconds, event.model)
        self._see(m.FIRST_TOKEN, event.seconds_to_first, event.model)

    def _engine(self, event: ev.EngineSampled) -> None:
        with self._lock:
            last = self._last.pop(event.model, None)
            self._last[event.model] = event
            if len(self._last) > SERIES:
                del self._last[next(iter(self._last))]
        if last is not None and event.runs < last.runs:
            # Loaded anew since: its counts began again.
            last = None
        for facts, name in _SAMPLED.items():
            before = 0 if last is None else getattr(last, name)
            self._count(facts, event.model, by=max(getattr(event, name) - before, 0))
        runs = event.runs - (last.runs if last else 0)
        rows = event.rows_run - (last.rows_run if last else 0)
        self._set(m.BATCH_ROWS, rows / runs if runs else 0.0, event.model)
        self._set(m.RUNNING, event.running, event.model)
        self._set(m.MEMORY, event.memory_bytes, event.model)
        self._set(m.MEMORY_LIMIT, event.memory_limit_bytes, event.model)

    def _attempt(self, event: ev.AttemptFinished) -> None:
        self._count(m.ATTEMPTS, event.engine, event.error or _OK)
        self._see(m.ATTEMPT_SECONDS, event.seconds, event.engine)

    def _guard(self, event: ev.GuardSampled) -> None:
        self._set(m.GUARD_RUNNING, event.running, event.engine)
        self._set(m.GUARD_QUEUED, event.queued, event.engine)
        if event.breaker:
            self._set(m.BREAKER_STATE, _BREAKER[event.breaker], event.engine)

    def _breaker(self, event: ev.BreakerChanged) -> None:
        self._set(m.BREAKER_STATE, _BREAKER[event.after], event.engine)
        if event.after == "open":
            self._count(m.BREAKER_OPENED, event.engine)

    def _child_started(self, event: ev.ChildStarted) -> None:
        self._set(m.CHILD_UP, 1, event.engine)
        self._set(m.CHILD_START, event.seconds, event.engine)

    def _child_ended(self, event: ev.ChildEnded) -> None:
        self._set(m.CHILD_UP, 0, event.engine)
        self._count(m.RESTARTS, event.engine, event.reason)
        self._count(m.CHILD_CALLS, event.engine, "replayed", by=event.replayed)
        self._count(m.CHILD_CALLS, event.engine, "failed", by=event.failed)


_SAMPLED = {
    m.READ_TOKENS: "read",
    m.REUSED_TOKENS: "reused",
    m.DECODED_TOKENS: "decoded",
    m.FORCED_TOKENS: "forced",
}


class _Metric:
    """One metric with a bounded number of series."""

    def __init__(self, facts: MetricFacts, registry: CollectorRegistry, series: int) -> None:
        self._metric: Any
        if facts.kind == "counter":
            self._metric = Counter(facts.name, facts.meaning, facts.labels, registry=registry)
        elif facts.kind == "gauge":
            self._metric = Gauge(facts.name, facts.meaning, facts.labels, registry=registry)
        else:
            self._metric = Histogram(
                facts.name, facts.meaning, facts.labels, registry=registry, buckets=SECONDS
            )
        self._most = series
        self._lock = threading.Lock()
        self._children: dict[_Labels, Any] = {} if facts.labels else {(): self._metric}

    @property
    def count(self) -> int:
        return len(self._children)

    def at(self, labels: _Labels) -> Any:
        found = self._children.get(labels)
        return self._new(labels) if found is None else found

    def _new(self, labels: _Labels) -> Any:
        with self._lock:
            known = labels in self._children
            if not known and len(self._children) >= self._most - 1:
                labels = (OTHER,) * len(labels)
            if labels not in self._children:
                cut = [label[:_LONGEST_LABEL].encode(errors="replace").decode() for label in labels]
                self._children[labels] = self._metric.labels(*cut)
            return self._children[labels]
