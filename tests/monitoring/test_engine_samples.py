"""Metrics of a real model that answers, with nothing between it and the registry but events."""

from __future__ import annotations

from pathlib import Path

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import Config, Message, Request
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.events import subscribed
from dspy_toolkit.monitoring import Health, Metrics
from tests.engine.tiny import write_model
from tests.monitoring.test_metrics import values

TOKENS = 6


def test_a_model_that_answers_shows_in_the_metrics_and_is_healthy(tmp_path: Path) -> None:
    # Engines over equal models share one thread and its counts, which other tests may have open.
    folder = write_model(tmp_path / "tiny", more={"rope_theta": 20_000.0})
    engine = open_engine(
        str(folder), EngineOptions(max_tokens=TOKENS, device="cpu"), Settings(home=tmp_path)
    )
    metrics = Metrics()
    health = Health({engine.model_string: engine})
    request = Request(
        model="m", messages=(Message.user("Tell me."),), config=Config(max_tokens=TOKENS)
    )
    with subscribed(metrics), subscribed(health), metrics.watching(engine.samples):
        for _ in range(2):
            engine.complete(request)
        seen = values(metrics)
        deep = health.check("deep")
    engine.close()
    model = (("model", engine.model_string),)
    ends = [v for (name, _), v in seen.items() if name == "dspy_tk_generations_total"]

    assert sum(ends) == 2
    assert seen["dspy_tk_first_token_seconds_count", model] == 2
    assert seen["dspy_tk_decoded_tokens_total", model] == 2 * TOKENS
    assert seen["dspy_tk_reused_tokens_total", model] > 0
    assert seen["dspy_tk_batch_rows", model] == 1.0
    assert 0 < seen["dspy_tk_memory_bytes", model] < seen["dspy_tk_memory_limit_bytes", model]
    assert deep.ok
    assert deep.findings[0].reason == "tokens come"
