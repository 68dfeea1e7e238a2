"""Models whose memory cannot be cut: answers are mlx-lm's, and beginnings are read once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlx_lm.utils import load

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.checkpoints import Checkpoints
from tests.conformance.engine_contract import ask
from tests.engine.test_generation import at_once, prompts, reference
from tests.engine.test_prefixes import PREFIX, lengths, sharing
from tests.engine.tiny import write_architecture

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine


# mlx-lm goes over its linear attention token by token on a CPU.
SLOW = pytest.param("qwen3_next", marks=pytest.mark.slow)


def said(engine: MlxEngine, texts: list[str], threads: int) -> list[str | None]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda t: engine.complete(ask(t, "You answer.")).text, texts))


TEXTS = [*sharing(4), *prompts(2), PREFIX, *sharing(2)]


@pytest.fixture(scope="module", params=["mamba", "lfm2"])
def known(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A model, and what mlx-lm answers with it."""
    folder = write_architecture(tmp_path_factory.mktemp("known") / request.param, request.param)
    return folder, [text for text, _ in reference(folder, TEXTS, 6)]


@pytest.mark.parametrize("budget", [0, 60_000, None])
def test_greedy_output_is_mlx_lms_whatever_is_stored(
    known: tuple[Path, list[str]], budget: int | None, settings: Settings
) -> None:
    folder, expected = known
    engine = open_engine(str(folder), EngineOptions(max_tokens=6, prefix_bytes=budget), settings)

    assert said(engine, TEXTS, 8) == expected
    assert said(engine, TEXTS, 1) == expected

    engine.close()


@pytest.mark.parametrize("which", ["mamba", "lfm2", SLOW, "falcon_h1"])
def test_what_prompts_begin_with_is_read_twice_at_most(
    which: str, tmp_path: Path, settings: Settings
) -> None:
    folder = write_architecture(tmp_path / which, which)
    engine = open_engine(str(folder), EngineOptions(max_tokens=4), settings)
    responses = at_once(engine, [ask(text) for text in sharing(10)])
    whole, reused = lengths(responses)
    stats, facts = engine.stats(), engine.facts
    engine.close()
    longest = max(response.usage.cache_read_tokens or 0 for response in responses)

    # Once by the first call, once for the checkpoint that all others begin at.
    assert longest > 150
    assert reused == stats.reused >= 8 * longest
    assert stats.read == whole - reused + longest
    assert stats.prefix_bytes > 0
    assert facts.unshared is not None
    assert "checkpoint" in facts.unshared


@pytest.mark.parametrize("which", [SLOW, "falcon_h1"])
def test_memories_of_two_kinds_go_on_from_a_checkpoint(
    which: str, tmp_path: Path, settings: Settings
) -> None:
    folder = write_architecture(tmp_path / which, which)
    texts = sharing(6)
    expected = [text for text, _ in reference(folder, texts, 6)]
    engine = open_engine(str(folder), EngineOptions(max_tokens=6), settings)
    given = said(engine, texts, 6)
    reused = engine.stats().reused
    engine.close()

    assert given == expected
    assert reused > 0


def test_checkpoints_stay_within_their_budget_and_the_latest_stay(tmp_path: Path) -> None:
    model, _ = load(str(write_architecture(tmp_path / "m", "mamba")))
    one = Checkpoints(model, 1 << 30)
    one.read_on(list(range(40)), 1000)
    kept = Checkpoints(model, 2 * one.stored_bytes)
    for start in (1, 2, 3, 1, 4):
        kept.read_on([start] * 40, 25)
        kept.read_on([start] * 40, 25)

    assert kept.stored_bytes == 2 * one.stored_bytes
    assert [kept.latest_of([start] * 41)[0] for start in (1, 2, 3, 4)] == [40, 0, 0, 40]


def test_a_checkpoint_that_fits_in_no_budget_is_tried_once(tmp_path: Path) -> None:
    model, _ = load(str(write_architecture(tmp_path / "m", "mamba")))
    small = Checkpoints(model, 1)
    tokens = list(range(100))

    assert small.goal(tokens) == 0
    assert small.goal(tokens) == 96

    small.read_on(tokens[:96], 1000)

    assert small.reached(tokens, 96)
    assert small.stored_bytes == 0
