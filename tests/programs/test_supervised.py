"""A real model in a process of its own, which is really killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.contract import ConfigurationError, Message, Request
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.errors import EngineError, NotFound
from dspy_toolkit.events import ChildEnded, Event, GenerationFinished, ModelLoaded, subscribed
from dspy_toolkit.monitoring import Health, Metrics
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.supervised import supervised_engine
from dspy_toolkit.resilience import SupervisedEngine
from tests.engine.tiny import write_model
from tests.monitoring.test_metrics import values

CALLERS = 32
PATIENCE_S = 60.0
QUESTION = Request(model="m", messages=(Message.user("Tell me."),))


def test_a_supervised_model_answers_as_one_in_this_process_also_when_killed_under_callers(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path, cache=False, device="cpu")
    folder = str(write_model(tmp_path / "tiny"))
    here = local_lm(folder, max_tokens=24, settings=settings)
    expected = here("Tell me.")
    here.release()
    heard: list[Event] = []
    metrics = Metrics()
    with subscribed(heard.append), subscribed(metrics):
        there = local_lm(folder, max_tokens=24, settings=replace(settings, supervised=True))
        engine = there.engine
        assert isinstance(engine, SupervisedEngine)

        before = there("Tell me.")
        together = threading.Barrier(CALLERS + 1)

        def call() -> Any:
            together.wait()
            return there("Tell me.")

        with ThreadPoolExecutor(CALLERS) as pool:
            asked = [pool.submit(call) for _ in range(CALLERS)]
            together.wait()
            os.kill(engine.process_id or 0, signal.SIGKILL)
            after = [each.result(PATIENCE_S) for each in asked]
        well = Health({there.model: engine}).check("deep").ok
        with metrics.watching(engine.samples):
            seen = values(metrics)
        there.release()

    assert there.model == here.model
    assert before == expected
    assert after == [expected] * CALLERS
    assert [e.reason for e in heard if isinstance(e, ChildEnded)] == ["crashed"]
    assert sum(isinstance(e, ModelLoaded) for e in heard) == 2
    assert any(isinstance(e, GenerationFinished) and e.model == there.model for e in heard)
    assert well
    assert [value for (name, _), value in seen.items() if name == "dspy_tk_child_up"] == [1]
    assert not any(str(tmp_path) in str(labels) for _, labels in seen)


def test_a_model_that_does_not_exist_is_told_as_in_this_process(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        supervised_engine("/nowhere/at/all", settings=Settings(home=tmp_path))


@pytest.mark.slow
def test_a_model_that_its_process_cannot_load_is_told_for_each_engine_that_wants_it(
    tmp_path: Path,
) -> None:
    folder = write_model(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nonesuch"}))

    for _ in range(2):
        with pytest.raises(EngineError, match="nonesuch"):
            supervised_engine(str(folder), settings=Settings(home=tmp_path, device="cpu"))


def test_engines_over_one_model_share_a_process_and_the_last_one_ends_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, cache=False, device="cpu")
    folder = str(write_model(tmp_path / "tiny"))
    copy = str(shutil.copytree(folder, tmp_path / "copy"))
    lone = open_engine(folder, EngineOptions(max_tokens=3), settings)
    expected, vector = lone.complete(QUESTION), lone.embed("a ticket")
    lone.close()
    long = supervised_engine(folder, EngineOptions(max_tokens=8), settings)
    keeping = replace(settings, cache=True, threads=2)
    short = supervised_engine(copy, EngineOptions(max_tokens=3), keeping)
    ids = {long.process_id, short.process_id}
    process = psutil.Process(long.process_id)

    os.kill(process.pid, signal.SIGKILL)
    after = short.complete(QUESTION)
    embedded = asyncio.run(short.async_twin.embed("a ticket"))
    ids_after = {long.process_id, short.process_id}
    long.close()
    alone = short.complete(QUESTION)
    last = psutil.Process(short.process_id)
    short.close()

    assert len(ids) == len(ids_after) == 1
    assert ids != ids_after
    assert after.text == alone.text == expected.text
    assert short.model_string != long.model_string
    assert embedded[0] == pytest.approx(vector[0], abs=1e-6)
    assert embedded[1] == vector[1]
    assert not last.is_running()
    with pytest.raises(ConfigurationError, match="closed"):
        long.complete(QUESTION)


@pytest.mark.slow
def test_prefixes_are_kept_on_disk_when_the_process_ends(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, cache=False, device="cpu")
    folder = str(write_model(tmp_path / "tiny"))
    options = EngineOptions(max_tokens=3, prefix_disk_bytes=1 << 24)
    text = Request(model="m", messages=(Message.user("order " * 100),))
    reused = []
    for _ in range(2):
        engine = supervised_engine(folder, options, settings)
        reused.append(engine.complete(text).usage.cache_read_tokens or 0)
        engine.close()

    assert reused[0] == 0
    assert reused[1] > 50
