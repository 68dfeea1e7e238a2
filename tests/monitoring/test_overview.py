from __future__ import annotations

import bisect
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.events import CallFinished, RequestFinished
from dspy_toolkit.monitoring import Metrics
from dspy_toolkit.monitoring.overview import overview, quantile, read_scrape
from tests.monitoring.test_metrics import ONE_OF_EACH, fed

BOUNDS = (0.1, 0.5, 1.0, 5.0, math.inf)


def buckets(*counts: float) -> list[tuple[float, float]]:
    return list(zip(BOUNDS, counts, strict=True))


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((0, 10, 10, 10, 10), 0.5, 0.3),
        ((10, 10, 10, 10, 10), 1.0, 0.1),
        ((0, 0, 0, 8, 8), 0.25, 2.0),
        ((0, 0, 0, 0, 5), 0.5, 5.0),
        ((5, 5, 10, 10, 10), 0.75, 0.75),
        ((0, 0, 0, 0, 0), 0.5, None),
    ],
)
def test_quantiles_are_interpolated_as_by_hand(
    counts: tuple[float, ...], share: float, expected: float | None
) -> None:
    assert quantile(buckets(*counts), share) == (expected and pytest.approx(expected))


@given(st.lists(st.floats(0.001, 4.9), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    counts = [sum(value <= bound for value in values) for bound in BOUNDS]
    found = quantile(buckets(*counts), share)
    true = sorted(values)[math.ceil(share * len(values) - 1e-9) - 1]
    place = bisect.bisect_left(BOUNDS, true)
    low = BOUNDS[place - 1] if place else 0.0

    assert found is not None
    assert low - 1e-9 <= found <= BOUNDS[place] + 1e-9


def test_a_scrape_is_summed_up_by_program_model_engine_and_process() -> None:
    seen = overview(read_scrape(fed(*ONE_OF_EACH).exposition().decode(), 0.0))

    assert seen.seconds is None
    assert seen.programs[0]["requests"] == 2
    assert seen.programs[0]["error_share"] == 0.5
    assert seen.programs[0]["requests_per_s"] is None
    assert seen.models[0]["cache_hit_share"] == pytest.approx(1 / 3)
    assert seen.models[0]["reused_share"] == pytest.approx(40 / 140)
    assert seen.models[0]["forced_share"] == pytest.approx(5 / 25)
    assert seen.engines[0]["breaker"] == "open"
    assert seen.engines[0]["error_share"] == 0.5
    assert (seen.engines[0]["running"], seen.engines[0]["queued"]) == (4, 2)
    assert seen.processes == [{"engine": "a", "up": False, "restarts": 1.0, "start_s": 2.0}]
    assert seen.process["memory_bytes"] > 0


def test_between_two_looks_rates_and_shares_are_of_what_came_between() -> None:
    metrics = Metrics()
    metrics(RequestFinished("p", "1", 0.01, "server"))
    before = read_scrape(metrics.exposition().decode(), 10.0)
    for _ in range(4):
        metrics(RequestFinished("p", "1", 3.0))
        metrics(CallFinished("m", 1.0, 10, 5, cached=False))
    seen = overview(read_scrape(metrics.exposition().decode(), 12.0), before)

    assert seen.seconds == 2.0
    assert seen.programs[0]["requests"] == 5
    assert seen.programs[0]["requests_per_s"] == 2.0
    assert seen.programs[0]["error_share"] == 0.0
    assert 2.5 < seen.programs[0]["p50_s"] < 5.0
    assert seen.models[0]["output_tokens_per_s"] == 10.0


def test_a_server_that_was_started_anew_gives_no_negative_rates() -> None:
    old, new = Metrics(), Metrics()
    for _ in range(9):
        old(RequestFinished("p", "1", 0.1))
    new(RequestFinished("p", "1", 0.1))
    before = read_scrape(old.exposition().decode(), 0.0)
    seen = overview(read_scrape(new.exposition().decode(), 1.0), before)

    assert seen.programs[0]["requests_per_s"] == 1.0


@pytest.mark.parametrize("text", ["<html>hello</html>", "", "up 1\n", '{"detail": "no"}'])
def test_what_is_no_scrape_of_ours_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="give the address"):
        read_scrape(text, 0.0)
