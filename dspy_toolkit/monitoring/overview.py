"""What a scrape of the metrics says, in the few numbers a person looks at."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.monitoring import catalog as m
from dspy_toolkit.monitoring.catalog import MetricFacts

Labels = tuple[tuple[str, str], ...]
_STATES = {0.0: "closed", 1.0: "half-open", 2.0: "open"}


@dataclass(frozen=True)
class Scrape:
    """Metrics at one moment.

    Attributes:
        at: seconds by any clock that goes forward.
        values: by name of the sample and its labels.
    """

    at: float
    values: Mapping[tuple[str, Labels], float]

    def minus(self, before: Scrape | None) -> Scrape:
        """What was added since; where a count went back, its process began anew."""
        if before is None:
            return self
        added = {}
        for key, value in self.values.items():
            earlier = before.values.get(key, 0.0)
            added[key] = value - earlier if value >= earlier else value
        return Scrape(self.at, added)


@dataclass(frozen=True)
class Overview:
    """Rows by what they are about. A number that nothing is known of is None.

    Attributes:
        seconds: time that rates and quantiles are about; None: since the start.
    """

    seconds: float | None
    programs: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    engines: list[dict[str, Any]] = field(default_factory=list)
    processes: list[dict[str, Any]] = field(default_factory=list)
    process: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return vars(self)


def read_scrape(text: str, at: float) -> Scrape:
    """Read Prometheus's text format.

    Raises:
        InvalidInput: it is none, or holds no metric of the toolkit.
    """
    values: dict[tuple[str, Labels], float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    except (ValueError, KeyError, IndexError) as error:
        raise InvalidInput(
            f"what was sent is not Prometheus's text format ({error}); "
            "give the address of a server's metrics"
        ) from None
    if not any(name.startswith("dspy_tk_") for name, _ in values):
        raise InvalidInput(
            "what was sent holds no metric of the toolkit; give the address of a server's metrics"
        )
    return Scrape(at, values)


def overview(now: Scrape, before: Scrape | None = None) -> Overview:
    """Sum up a scrape; with an earlier one, rates and quantiles are of the time between."""
    seconds = None if before is None else now.at - before.at
    look = _Look(now, now.minus(before), seconds)
    return Overview(
        seconds=seconds,
        programs=[_program(look, who) for who in look.series(m.REQUESTS)],
        models=[_model(look, who) for who in look.series(m.CALLS, m.GENERATIONS, m.RUNNING)],
        engines=[_engine(look, who) for who in look.series(m.ATTEMPTS, m.SHED, m.GUARD_RUNNING)],
        processes=[_child(look, who) for who in look.series(m.CHILD_UP)],
        process={
            "memory_bytes": look.gauge(m.PROCESS_MEMORY, ()),
            "threads": look.gauge(m.PROCESS_THREADS, ()),
            "file_handles": look.gauge(m.PROCESS_HANDLES, ()),
        },
    )


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """Estimate a quantile from cumulative counts, as PromQL's `histogram_quantile` does.

    Args:
        buckets: (upper bound, count up to it), by bound; the last bound is infinite.
        share: in (0, 1].

    Returns:
        Interpolated within its bucket; the largest finite bound beyond it; None without counts.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    rank = share * total
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if bound == math.inf:
                return low
            inside = count - below
            return bound if inside <= 0 else low + (bound - low) * (rank - below) / inside
        low, below = bound, count
    return low


class _Look:
    """Reads numbers of one scrape, and what was added before it."""

    def __init__(self, now: Scrape, added: Scrape, seconds: float | None) -> None:
        self._now = now
        self._added = added
        self._seconds = seconds
        self._buckets: dict[str, dict[Labels, list[tuple[float, float]]]] = defaultdict(dict)
        for (name, labels), value in added.values.items():
            bound = dict(labels).get("le")
            if bound is not None:
                rest = tuple(each for each in labels if each[0] != "le")
                self._buckets[name].setdefault(rest, []).append((float(bound), value))

    def series(self, *metrics: MetricFacts) -> list[Labels]:
        """The owners of any of these metrics: all labels of the first, by value."""
        wanted = set(metrics[0].labels) & set(metrics[-1].labels)
        names = {metric.name for metric in metrics}
        found = {
            tuple(each for each in labels if each[0] in wanted)
            for name, labels in self._now.values
            if name in names
        }
        return sorted(found)

    def total(self, metric: MetricFacts, who: Labels) -> float:
        """A count since the start, over the labels that `who` leaves open."""
        return _sum(self._now, metric.name, who)

    def added(self, metric: MetricFacts, who: Labels, *more: tuple[str, str]) -> float:
        """What a count grew by."""
        return _sum(self._added, metric.name, (*who, *more))

    def rate(self, metric: MetricFacts, who: Labels) -> float | None:
        """The same in a second; None without an earlier scrape."""
        return self.added(metric, who) / self._seconds if self._seconds else None

    def gauge(self, metric: MetricFacts, who: Labels) -> float | None:
        """A value as it is."""
        return self._now.values.get((metric.name, tuple(sorted(who))))

    def quantile(self, metric: MetricFacts, who: Labels, share: float) -> float | None:
        """Of the observations that were added."""
        buckets = self._buckets[f"{metric.name}_bucket"].get(tuple(sorted(who)), [])
        return quantile(sorted(buckets), share)


def _sum(scrape: Scrape, name: str, who: Labels) -> float:
    wanted = set(who)
    return sum(
        value
        for (each, labels), value in scrape.values.items()
        if each == name and wanted <= set(labels)
    )


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _program(look: _Look, who: Labels) -> dict[str, Any]:
    requests = look.added(m.REQUESTS, who)
    return {
        **dict(who),
        "requests": look.total(m.REQUESTS, who),
        "requests_per_s": look.rate(m.REQUESTS, who),
        "error_share": _share(look.added(m.REQUEST_ERRORS, who), requests),
        "p50_s": look.quantile(m.REQUEST_SECONDS, who, 0.5),
        "p95_s": look.quantile(m.REQUEST_SECONDS, who, 0.95),
        "first_token_p50_s": look.quantile(m.REQUEST_FIRST, who, 0.5),
    }


def _model(look: _Look, who: Labels) -> dict[str, Any]:
    calls = look.added(m.CALLS, who)
    read, reused = look.added(m.READ_TOKENS, who), look.added(m.REUSED_TOKENS, who)
    drawn, forced = look.added(m.DECODED_TOKENS, who), look.added(m.FORCED_TOKENS, who)
    return {
        **dict(who),
        "calls": look.total(m.CALLS, who),
        "calls_per_s": look.rate(m.CALLS, who),
        "error_share": _share(look.added(m.CALL_ERRORS, who), calls),
        "cache_hit_share": _share(look.added(m.CACHE_HITS, who), calls),
        "first_token_p50_s": look.quantile(m.FIRST_TOKEN, who, 0.5),
        "first_token_p95_s": look.quantile(m.FIRST_TOKEN, who, 0.95),
        "output_tokens_per_s": look.rate(m.OUTPUT_TOKENS, who),
        "reused_share": _share(reused, read + reused),
        "forced_share": _share(forced, drawn + forced),
        "running": look.gauge(m.RUNNING, who),
        "batch_rows": look.gauge(m.BATCH_ROWS, who),
        "memory_bytes": look.gauge(m.MEMORY, who),
    }


def _engine(look: _Look, who: Labels) -> dict[str, Any]:
    attempts = look.added(m.ATTEMPTS, who)
    good = look.added(m.ATTEMPTS, who, ("outcome", "ok"))
    state = look.gauge(m.BREAKER_STATE, who)
    return {
        **dict(who),
        "breaker": None if state is None else _STATES[state],
        "attempts": look.total(m.ATTEMPTS, who),
        "error_share": _share(attempts - good, attempts),
        "p95_s": look.quantile(m.ATTEMPT_SECONDS, who, 0.95),
        "retries": look.total(m.RETRIES, who),
        "fallbacks": look.total(m.FALLBACKS, who),
        "shed": look.total(m.SHED, who),
        "timeouts": look.total(m.TIMEOUTS, who),
        "running": look.gauge(m.GUARD_RUNNING, who),
        "queued": look.gauge(m.GUARD_QUEUED, who),
    }


def _child(look: _Look, who: Labels) -> dict[str, Any]:
    return {
        **dict(who),
        "up": look.gauge(m.CHILD_UP, who) == 1.0,
        "restarts": look.total(m.RESTARTS, who),
        "start_s": look.gauge(m.CHILD_START, who),
    }
