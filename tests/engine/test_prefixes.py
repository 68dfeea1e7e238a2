from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dspy import lm15

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import gives_up_at
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.source import EMBEDDED_FOLDER
from tests.conformance.engine_contract import ask
from tests.engine.test_generation import WORDS, at_once, prompts, reference
from tests.engine.tiny import write_architecture, write_model, write_sliding_model

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine
    from dspy_toolkit.engine.stats import Counts

PREFIX = " ".join(random.Random(5).choices(WORDS, k=70))


_budgets = itertools.count(1 << 28)


def sharing(count: int) -> list[str]:
    """Prompts that begin alike and end each in a way of its own."""
    return [f"{PREFIX} {ending}" for ending in prompts(count)]


@pytest.fixture
def fresh(tmp_path: Path, settings: Settings) -> Iterator[MlxEngine]:
    # Engines that are opened alike share what they have read; nobody else asks for this budget.
    options = EngineOptions(max_tokens=8, prefix_bytes=next(_budgets))
    opened = open_engine(str(write_model(tmp_path / "m")), options, settings)
    yield opened
    opened.close()


def lengths(responses: list[lm15.Response]) -> tuple[int, int]:
    """Prompt tokens of all responses, and how many of those are said to be reused."""
    return (
        sum(response.usage.input_tokens for response in responses),
        sum(response.usage.cache_read_tokens or 0 for response in responses),
    )


def spent(before: Counts, after: Counts) -> int:
    return after.read - before.read


def test_a_cold_burst_reads_its_prefix_once(fresh: MlxEngine) -> None:
    responses = at_once(fresh, [ask(text) for text in sharing(16)])
    whole, reused = lengths(responses)
    stats = fresh.stats()
    # The template's own beginning and 70 words and more.
    prefix = max(response.usage.cache_read_tokens or 0 for response in responses)

    assert prefix > 150
    assert stats.read + stats.reused == whole
    assert stats.reused == reused >= 15 * 150
    assert sorted(r.usage.cache_read_tokens or 0 for r in responses)[0] == 0


def test_what_was_read_stays_for_later_calls(fresh: MlxEngine) -> None:
    first, second = (fresh.complete(ask(text)) for text in sharing(2))
    again = fresh.complete(ask(sharing(1)[0]))

    assert first.usage.cache_read_tokens == 0
    assert (second.usage.cache_read_tokens or 0) > 150
    assert again.usage.cache_read_tokens == again.usage.input_tokens - 1
    assert again.text == first.text


@pytest.mark.parametrize("prefix_bytes", [0, 30_000, 150_000, None])
def test_greedy_output_is_mlx_lms_whatever_is_stored_and_in_whatever_order_calls_come(
    prefix_bytes: int | None, model_folder: Path, settings: Settings
) -> None:
    texts = [*sharing(20), *prompts(20), PREFIX, PREFIX[:200]]
    expected = [text for text, _ in reference(model_folder, texts, 8)]
    options = EngineOptions(max_tokens=8, rows=5, prefill_rows=3, prefix_bytes=prefix_bytes)
    engine = open_engine(str(model_folder), options, settings)
    chance = random.Random(1)
    for threads in (1, 7, 40):
        order = chance.sample(range(len(texts)), len(texts))
        with ThreadPoolExecutor(threads) as pool:
            said = list(pool.map(lambda n: _said(engine, texts[n]), order))

        assert said == [expected[n] for n in order]
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("prefix_bytes", [0, 400_000, None])
def test_two_hundred_greedy_answers_of_the_embedded_model_are_mlx_lms(
    prefix_bytes: int | None, settings: Settings
) -> None:
    if not (EMBEDDED_FOLDER / "config.json").is_file():
        pytest.skip("the embedded model is not here")
    texts = [*prompts(120), *sharing(80)]
    random.Random(4).shuffle(texts)
    expected = [text for text, _ in reference(EMBEDDED_FOLDER, texts, 12)]
    options = EngineOptions(max_tokens=12, prefix_bytes=prefix_bytes)
    engine = open_engine(str(EMBEDDED_FOLDER), options, settings)
    with ThreadPoolExecutor(32) as pool:
        said = list(pool.map(lambda text: _said(engine, text), texts))
    engine.close()

    assert said == expected


def _said(engine: MlxEngine, text: str) -> str:
    return engine.complete(ask(text, "You answer.")).text or ""


def test_without_memory_for_prefixes_nothing_is_said_to_be_reused(
    model_folder: Path, settings: Settings
) -> None:
    engine = open_engine(str(model_folder), EngineOptions(prefix_bytes=0, max_tokens=2), settings)
    responses = [engine.complete(ask("Hello")) for _ in range(2)]
    stats = engine.stats()
    engine.close()

    assert lengths(responses) == (stats.read, 0)
    assert stats.reused == 0


def test_a_seeded_answer_does_not_depend_on_what_is_stored(fresh: MlxEngine) -> None:
    requests = [ask(t, temperature=1.0, seed=n) for n, t in enumerate(sharing(8))]
    cold = [response.text for response in at_once(fresh, requests)]
    warm = [response.text for response in at_once(fresh, requests)]

    assert warm == cold


def test_a_caller_that_leaves_while_others_wait_for_its_prefix_does_not_keep_them(
    fresh: MlxEngine,
) -> None:
    texts = sharing(6)
    expected = [fresh.complete(ask(text)).text for text in texts[1:]]
    with ThreadPoolExecutor(5) as pool:
        stream = fresh.stream(ask(f"zz {texts[0]}"))
        next(stream)
        others = [pool.submit(fresh.complete, ask(text)) for text in texts[1:]]
        stream.close()

        assert [other.result().text for other in others] == expected


@pytest.mark.parametrize("which", ["llama", "gemma3"])
def test_a_model_with_a_sliding_window_shares_what_calls_have_in_common(
    which: str, tmp_path: Path, settings: Settings
) -> None:
    folder = tmp_path / which
    if which == "llama":
        write_sliding_model(folder)
    else:
        write_architecture(folder, which)
    texts = [*sharing(10), *prompts(4)]
    expected = [text for text, _ in reference(folder, texts, 8)]
    engine = open_engine(str(folder), EngineOptions(max_tokens=8), settings)
    responses = at_once(engine, [ask(text, "You answer.") for text in texts])
    facts, stats = engine.facts, engine.stats()
    engine.close()

    assert (facts.unshared, facts.copies) == (None, None)
    assert [response.text for response in responses] == expected
    assert stats.reused >= 9 * 150


def _wait_for(gate: threading.Event) -> None:
    gate.wait(60)


def test_when_memory_is_short_calls_take_turns_and_say_the_same(
    model_folder: Path, settings: Settings
) -> None:
    texts = prompts(12)
    expected = [text for text, _ in reference(model_folder, texts, 60)]
    # A token takes 2 layers * 2 * 2 heads * 16 numbers of 4 bytes; four rows of 128 fit.
    options = EngineOptions(max_tokens=60, row_bytes=4 * 128 * 512, prefix_bytes=0)
    engine = open_engine(str(model_folder), options, settings)
    gate = threading.Event()
    # All calls are there before the engine starts on the first.
    engine._worker.post(partial(_wait_for, gate))
    with ThreadPoolExecutor(len(texts)) as pool:
        calls = [pool.submit(engine.complete, ask(text, "You answer.")) for text in texts]
        while engine._worker._inbox.qsize() < len(texts):
            pass
        gate.set()
        said = [call.result().text for call in calls]
    stats = engine.stats()
    engine.close()

    assert said == expected
    assert stats.preempted > 0
    assert stats.row_bytes <= 4 * 128 * 512
    assert (stats.begun, stats.refused) == (12, 0)


def test_a_call_that_needs_more_memory_than_there_is_is_refused(
    model_folder: Path, settings: Settings
) -> None:
    engine = open_engine(str(model_folder), EngineOptions(row_bytes=128 * 512), settings)
    with pytest.raises(lm15.InvalidRequestError, match="raise the engine option row_bytes"):
        engine.complete(ask("Hello", max_tokens=128))
    small = engine.complete(ask("Hello", max_tokens=8))
    engine.close()

    assert small.usage.output_tokens


def test_a_call_beyond_the_queue_is_refused_as_one_to_try_again(
    model_folder: Path, settings: Settings
) -> None:
    engine = open_engine(str(model_folder), EngineOptions(queue=0, rows=1), settings)
    gate, reached = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        _wait_for(gate)

    engine._worker.post(hold)
    reached.wait(60)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(engine.complete, ask("Hello", max_tokens=2))
        while not engine._worker._inbox.qsize():
            pass
        with pytest.raises(lm15.RateLimitError) as refusal:
            engine.complete(ask("Hello again", max_tokens=2))
        gate.set()
        answered = first.result().usage.output_tokens
    engine.close()

    assert isinstance(refusal.value, lm15.RETRYABLE_ERRORS)
    assert answered


def test_a_call_that_nobody_waits_for_any_more_ends(fresh: MlxEngine) -> None:
    waits = gives_up_at.set(time.monotonic())
    try:
        with pytest.raises(lm15.TimeoutError, match="nobody waits"):
            fresh.complete(ask("Hello"))
    finally:
        gives_up_at.reset(waits)

    assert fresh.complete(ask("Hello")).usage.output_tokens
    assert fresh.running == 0


def kept_files(settings: Settings) -> list[Path]:
    return sorted((settings.home / "prefixes").rglob("*.safetensors"))


def test_prefixes_can_outlive_the_engine(
    model_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    home = replace(settings, home=tmp_path)
    options = EngineOptions(max_tokens=8, prefix_disk_bytes=1 << 24)
    said, restored, reused = [], [], []
    for n in range(3):
        engine = open_engine(str(model_folder), options, home)
        said.append([r.text for r in at_once(engine, [ask(text) for text in sharing(4)])])
        restored.append(engine.stats().restored)
        reused.append(engine.complete(ask(f"{PREFIX} zz{n}")).usage.cache_read_tokens)
        engine.close()
        if n == 1:
            for file in kept_files(home):
                file.write_bytes(file.read_bytes()[:-4] + b"torn")

    assert said[0] == said[1] == said[2]
    assert restored[0] == 0
    assert restored[1] > 150
    assert restored[2] == 0
    assert min(count or 0 for count in reused) > 150


def test_of_kept_prefixes_only_the_latest_stay_within_the_budget(
    model_folder: Path, tmp_path: Path, settings: Settings
) -> None:
    home = replace(settings, home=tmp_path)
    # A token takes 512 bytes; either prompt fits, both do not.
    options = EngineOptions(max_tokens=2, prefix_disk_bytes=330 * 512)
    for text in (f"a {PREFIX}", f"b {PREFIX}"):
        engine = open_engine(str(model_folder), options, home)
        engine.complete(ask(text))
        engine.close()
    engine = open_engine(str(model_folder), options, home)
    latest, older = (engine.complete(ask(f"{n} {PREFIX}")) for n in "ba")
    engine.close()

    assert sum(file.stat().st_size for file in kept_files(home)) <= 330 * 512 + 4096
    assert (latest.usage.cache_read_tokens or 0) > 150 > (older.usage.cache_read_tokens or 0)


def test_nothing_is_kept_unless_asked_for(fresh: MlxEngine, settings: Settings) -> None:
    fresh.complete(ask("Hello"))
    fresh.close()

    assert kept_files(settings) == []
