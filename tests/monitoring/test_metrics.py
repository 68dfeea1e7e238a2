from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from dspy_toolkit.events import (
    AttemptFinished,
    BreakerChanged,
    BreakerStateLost,
    CallFinished,
    CallRetried,
    CallShed,
    CallTimedOut,
    ChildEnded,
    ChildStarted,
    EngineDied,
    EngineSampled,
    Event,
    FallbackUsed,
    GenerationFinished,
    GuardSampled,
    LateAnswerDropped,
    ModelLoaded,
    PredictionServed,
    RequestBroken,
    RequestFinished,
    RequestRefused,
    RunFinished,
    RunStarted,
    VersionRefused,
    VersionSwitched,
    emit,
    subscribed,
)
from dspy_toolkit.monitoring import CATALOG, Metrics
from dspy_toolkit.monitoring.metrics import OTHER

SAMPLE = EngineSampled("m", 3, 100, 40, 20, 5, 10, 30, 1 << 20, 1 << 30)
ONE_OF_EACH: tuple[Event, ...] = (
    RequestFinished("triage", "1.0.0", 0.2, None, 0.1),
    RequestFinished("triage", "1.0.0", 0.3, "timeout"),
    PredictionServed("triage", "1.0.0", True),
    VersionSwitched("triage", "a", "b"),
    VersionRefused("triage", "c", "broken"),
    RequestRefused("key"),
    RequestBroken("req_1", "ValueError"),
    CallFinished("m", 0.2, 100, 10, cached=False),
    CallFinished("m", 0.0, 0, 0, cached=True),
    CallFinished("m", 0.1, 0, 0, cached=False, error="ServerError"),
    GenerationFinished("m", 100, 10, 0.05, 0.2, "stop"),
    SAMPLE,
    ModelLoaded("m", "cpu", 1.5),
    EngineDied("m", "gone"),
    AttemptFinished("a", 0.1, None),
    AttemptFinished("a", 0.1, "server"),
    CallRetried("a", 1, 0.2, "server"),
    FallbackUsed("a", "b", "server"),
    CallShed("a", "full"),
    CallTimedOut("a", "whole", 1.0),
    LateAnswerDropped("a", 2.0),
    GuardSampled("a", 4, 2, "closed"),
    BreakerChanged("a", "closed", "open"),
    BreakerStateLost("/x", "full"),
    ChildStarted("a", 1, 2.0),
    ChildEnded("a", "crashed", 3, 1),
    RunFinished("r", 1.0),
)


def values(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample a scrape would see."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def fed(*events: Event) -> Metrics:
    metrics = Metrics()
    with subscribed(metrics):
        for event in events:
            emit(event)
    return metrics


def test_every_metric_of_the_catalog_is_set_by_some_event() -> None:
    seen = {
        name.removesuffix("_count").removesuffix("_sum").removesuffix("_bucket")
        for (name, _), value in values(fed(*ONE_OF_EACH)).items()
        if value or name in ("dspy_tk_child_up", "dspy_tk_breaker_state")
    }

    assert {facts.name for facts in CATALOG} - seen == set()


def test_the_registry_has_exactly_the_metrics_of_the_catalog_with_their_labels() -> None:
    families = text_string_to_metric_families(fed(*ONE_OF_EACH).exposition().decode())
    found = {}
    for family in families:
        if all(sample.name.endswith("_created") for sample in family.samples):
            continue
        labels = set().union(*(sample.labels for sample in family.samples)) - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, labels)

    assert found == {facts.name: (facts.kind, set(facts.labels)) for facts in CATALOG}


def test_events_add_up_as_reckoned_by_hand() -> None:
    seen = values(fed(*ONE_OF_EACH))
    program = ("program", "triage"), ("version", "1.0.0")
    model, engine = ("model", "m"), ("engine", "a")

    assert seen["dspy_tk_requests_total", program] == 2
    assert seen["dspy_tk_request_errors_total", (("kind", "timeout"), *program)] == 1
    assert seen["dspy_tk_request_seconds_sum", program] == 0.5
    assert seen["dspy_tk_request_seconds_bucket", (("le", "0.25"), *program)] == 1
    assert seen["dspy_tk_calls_total", (model,)] == 3
    assert seen["dspy_tk_cache_hits_total", (model,)] == 1
    assert seen["dspy_tk_input_tokens_total", (model,)] == 100
    assert seen["dspy_tk_batch_rows", (model,)] == 3
    assert seen["dspy_tk_attempts_total", (engine, ("outcome", "ok"))] == 1
    assert seen["dspy_tk_breaker_state", (engine,)] == 2
    assert seen["dspy_tk_child_interrupted_calls_total", (engine, ("outcome", "replayed"))] == 3
    assert seen["dspy_tk_runs_total", (("outcome", "ok"),)] == 1


def test_counts_of_an_engine_go_on_when_its_model_is_loaded_anew() -> None:
    later = EngineSampled("m", 0, 150, 40, 30, 5, 12, 34, 0, 0)
    anew = EngineSampled("m", 0, 7, 0, 1, 0, 1, 1, 0, 0)

    seen = values(fed(SAMPLE, later, anew))

    assert seen["dspy_tk_read_tokens_total", (("model", "m"),)] == 150 + 7
    assert seen["dspy_tk_reused_tokens_total", (("model", "m"),)] == 40
    assert values(fed(SAMPLE, later))["dspy_tk_batch_rows", (("model", "m"),)] == 2


def test_what_is_sampled_is_asked_for_at_each_scrape_and_not_after_its_block() -> None:
    metrics = Metrics()
    running = iter((5, 2))
    with metrics.watching(lambda: [GuardSampled("a", next(running), 0, "")]):
        first, second = values(metrics), values(metrics)

    assert first["dspy_tk_guard_running_calls", (("engine", "a"),)] == 5
    assert second["dspy_tk_guard_running_calls", (("engine", "a"),)] == 2
    assert values(metrics)["dspy_tk_guard_running_calls", (("engine", "a"),)] == 2


@given(st.lists(st.tuples(st.text(max_size=200), st.text(max_size=5)), max_size=80))
def test_whatever_names_come_the_series_stay_few_and_nothing_is_lost(
    names: list[tuple[str, str]],
) -> None:
    metrics = Metrics(series=10)
    for program, version in names:
        metrics(RequestFinished(program, version, 0.1))
    counts = {
        labels: value
        for (name, labels), value in values(metrics).items()
        if name == "dspy_tk_requests_total"
    }

    assert len(counts) <= 10
    assert sum(counts.values()) == len(names)


def test_series_beyond_the_limit_are_called_other() -> None:
    metrics = Metrics(series=3)
    for number in range(5):
        metrics(EngineDied(str(number), "x"))
    seen = values(metrics)

    assert seen["dspy_tk_engine_deaths_total", (("model", "0"),)] == 1
    assert seen["dspy_tk_engine_deaths_total", (("model", OTHER),)] == 3


def test_an_event_that_no_metric_is_about_is_passed_over() -> None:
    before = values(fed())

    assert values(fed(RunStarted("r", "t", "o"))).keys() == before.keys()


def test_threads_that_count_at_once_lose_nothing() -> None:
    metrics = Metrics()

    def count() -> None:
        for number in range(300):
            metrics(CallShed(str(number % 7), "full"))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = values(metrics)

    assert sum(v for (name, _), v in seen.items() if name == "dspy_tk_shed_calls_total") == 1200
