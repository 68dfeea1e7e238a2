"""What `mlx_lm.server` was seen to do wrong, and this engine must not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dspy import lm15

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from tests.conformance.engine_contract import ask
from tests.engine.tiny import write_architecture

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine


def raw(text: str, **config: Any) -> lm15.Request:
    return ask(text, extensions={"raw": True}, **config)


@pytest.mark.parametrize("which", ["llama", "lfm2"])
def test_a_prompt_that_is_an_earlier_one_with_its_answer_is_answered(
    which: str, tmp_path: Path, model_folder: Path, settings: Settings
) -> None:
    folder = model_folder if which == "llama" else write_architecture(tmp_path / which, which)
    engine = open_engine(str(folder), EngineOptions(max_tokens=8), settings)
    prompt = "You answer questions about tickets, orders and policies in a few short words." * 2
    first = engine.complete(raw(prompt)).text
    both = [engine.complete(raw(f"{prompt}{first}")).text for _ in range(3)]
    again = [engine.complete(raw(prompt)).text for _ in range(2)]
    alive = engine.alive
    engine.close()

    assert again == [first, first]
    assert len(set(both)) == 1
    assert alive


def test_a_stop_string_inside_a_longer_token_ends_the_answer_there(engine: MlxEngine) -> None:
    free = engine.complete(ask("Hello", max_tokens=24)).text or ""
    # A letter in the middle of some token of the answer: whatever stands before it stays.
    stop = free[len(free) // 2]
    response = engine.complete(ask("Hello", max_tokens=24, stop=(stop,)))

    assert response.text == free[: free.index(stop)]
    assert response.finish_reason == "stop"


def test_a_caller_of_a_whole_answer_that_goes_away_ends_its_generation(engine: MlxEngine) -> None:
    async def call() -> None:
        twin = engine.async_twin
        task = asyncio.create_task(twin.complete(ask("Hello", max_tokens=400)))
        while not engine.running:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while engine.running:
            await asyncio.sleep(0)

    before = engine.stats().decoded
    asyncio.run(asyncio.wait_for(call(), 60))

    assert engine.stats().decoded - before < 400


def test_health_does_not_lie_about_a_thread_that_has_ended(
    model_folder: Path, settings: Settings
) -> None:
    # Engines opened alike share a thread; nobody else asks for so many rows.
    engine = open_engine(str(model_folder), EngineOptions(rows=11), settings)

    def burn() -> None:
        raise SystemExit("the machine is on fire")

    assert engine.alive

    engine._worker.post(burn)
    engine._worker._thread.join(60)
    with pytest.raises(lm15.ServerError, match="the machine is on fire"):
        engine.complete(ask("Hello"))

    assert not engine.alive

    engine.close()


def test_what_is_no_conversation_is_refused_and_harms_nobody(engine: MlxEngine) -> None:
    with pytest.raises(lm15.InvalidRequestError):
        engine.complete(ask(""))

    assert engine.complete(ask("Hello", max_tokens=2)).usage.output_tokens
