"""A real model in a process of its own, which is really killed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import NotFound
from dspy_toolkit.events import ChildEnded, Event, GenerationFinished, ModelLoaded, subscribed
from dspy_toolkit.monitoring import Health, Metrics
from dspy_toolkit.programs.lm import local_lm
from dspy_toolkit.programs.supervised import supervised_engine
from dspy_toolkit.resilience import SupervisedEngine
from tests.engine.tiny import write_model
from tests.monitoring.test_metrics import values


def test_a_supervised_model_answers_as_one_in_this_process_also_after_a_kill(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path, cache=False, device="cpu")
    folder = str(write_model(tmp_path / "tiny"))
    here = local_lm(folder, max_tokens=8, settings=settings)
    expected = here("Tell me.")
    here.release()
    heard: list[Event] = []
    metrics = Metrics()
    with subscribed(heard.append), subscribed(metrics):
        there = local_lm(folder, max_tokens=8, settings=replace(settings, supervised=True))
        engine = there.engine
        assert isinstance(engine, SupervisedEngine)

        before = there("Tell me.")
        os.kill(engine.process_id or 0, signal.SIGKILL)
        after = there("Tell me.")
        well = Health({there.model: engine}).check("deep").ok
        with metrics.watching(engine.samples):
            seen = values(metrics)
        there.release()

    assert there.model == here.model
    assert before == after == expected
    assert [e.reason for e in heard if isinstance(e, ChildEnded)] == ["crashed"]
    assert sum(isinstance(e, ModelLoaded) for e in heard) == 2
    assert any(isinstance(e, GenerationFinished) and e.model == there.model for e in heard)
    assert well
    assert seen["dspy_tk_child_up", (("engine", folder),)] == 1


def test_a_model_that_does_not_exist_is_told_as_in_this_process(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        supervised_engine("/nowhere/at/all", settings=Settings(home=tmp_path))
