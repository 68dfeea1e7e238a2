"""What the engine spends on typical work, in counts that no machine changes.

A change that makes one of these larger makes the engine slower everywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest
from dspy import lm15

from benchmarks.workloads import CLASSIFY, EXTRACT, REASON, Workload
from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.prefix_tree import common_length
from dspy_toolkit.engine.sequence import Finished, Message
from tests.engine.tiny import write_model

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Iterator[MlxEngine]:
    text = [
        message.text or ""
        for work in (CLASSIFY, REASON, EXTRACT)
        for message in work.requests(1, seed=9, held=False)[0].messages
    ]
    folder = write_model(
        tmp_path_factory.mktemp("counts") / "m", more={"max_position_embeddings": 8192}, text=text
    )
    opened = open_engine(str(folder), EngineOptions(prefill_tokens=256), settings)
    yield opened
    opened.close()


def spent(engine: MlxEngine, requests: list[lm15.Request]) -> dict[str, int]:
    """What a burst of calls costs, all of them there before the engine starts on the first."""
    before = asdict(engine.stats())
    gate = threading.Event()
    inbox: SimpleQueue[Message] = SimpleQueue()

    def hold() -> None:
        gate.wait(PATIENCE_S)

    engine._worker.post(hold)
    for request in requests:
        engine.prepare(request, inbox.put, streaming=False).start()
    gate.set()
    for _ in requests:
        message = inbox.get(timeout=PATIENCE_S)

        assert isinstance(message, Finished)
        assert message.reason == "stop"
    return {name: count - before[name] for name, count in asdict(engine.stats()).items()}


def prompts(engine: MlxEngine, requests: list[lm15.Request]) -> list[list[int]]:
    unheard: SimpleQueue[Message] = SimpleQueue()
    return [engine.prepare(r, unheard.put, False)._sequence.prompt for r in requests]


def shared_tokens(engine: MlxEngine, requests: list[lm15.Request]) -> int:
    first, *others = prompts(engine, requests)
    return min(common_length(first, other) for other in others)


def warm(engine: MlxEngine, work: Workload, count: int, seed: int) -> list[lm15.Request]:
    """Calls whose demonstrations the engine has read before."""
    first, *requests = work.requests(count + 1, seed, held=True)
    spent(engine, [first])
    return requests


def test_w1_a_classification_costs_one_choice_and_runs_are_shared_by_eight(
    engine: MlxEngine,
) -> None:
    calls = warm(engine, CLASSIFY, 32, seed=1)
    own = [len(prompt) - shared_tokens(engine, calls) for prompt in prompts(engine, calls)]
    cost = spent(engine, calls)

    assert shared_tokens(engine, calls) > 1000
    assert cost["decoded"] == 32
    assert cost["read"] <= sum(own)
    assert cost["runs"] == 4


def test_w2_a_chain_of_thought_costs_a_run_for_each_free_token_shared_by_all(
    engine: MlxEngine,
) -> None:
    calls = warm(engine, REASON, 16, seed=2)
    own = [len(prompt) - shared_tokens(engine, calls) for prompt in prompts(engine, calls)]
    cost = spent(engine, calls)

    assert cost["read"] <= sum(own)
    # Two groups of prompts are read; then each run draws for all rows that are left.
    assert cost["runs"] <= 135
    assert cost["rows_run"] == cost["decoded"]
    assert cost["decoded"] <= 1600


def test_w3_an_extraction_forces_most_of_its_answer(engine: MlxEngine) -> None:
    calls = warm(engine, EXTRACT, 16, seed=3)
    cost = spent(engine, calls)

    assert cost["decoded"] <= 16 * 8
    assert cost["forced"] >= 5 * cost["decoded"]
    assert cost["runs"] <= 14


def test_w4_a_cold_burst_reads_its_prefix_once(engine: MlxEngine) -> None:
    calls = CLASSIFY.requests(32, seed=4, held=True)
    shared = shared_tokens(engine, calls)
    own = [len(prompt) - shared for prompt in prompts(engine, calls)]
    cost = spent(engine, calls)

    assert cost["read"] <= shared + sum(own)
    assert cost["reused"] >= 31 * shared
    assert cost["decoded"] == 32
    # The first prompt in slices of 256, then the others eight at a time.
    assert cost["runs"] <= shared // 256 + 1 + 4


def test_one_caller_spends_one_run_a_classification(engine: MlxEngine) -> None:
    for call in warm(engine, CLASSIFY, 3, seed=5):
        cost = spent(engine, [call])

        assert (cost["runs"], cost["decoded"]) == (1, 1)
