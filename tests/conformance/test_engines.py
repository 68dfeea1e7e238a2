from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.resilience import Opening, SupervisedEngine
from dspy_toolkit.resilience.supervised.policy import SupervisionPolicy
from tests.conformance.engine_contract import EngineContract, SavableEngineContract
from tests.engine.tiny import CONTEXT, write_model

preload_blas()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("contract") / "tiny")


@pytest.fixture(scope="module")
def started() -> Iterator[list[SupervisedEngine]]:
    engines: list[SupervisedEngine] = []
    yield engines
    for engine in engines:
        engine.close()


class TestMlxEngine(SavableEngineContract):
    @pytest.fixture
    def engine(
        self, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Any]:
        monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path))
        opened = open_engine(
            str(model_folder), EngineOptions(max_tokens=12, device="cpu"), Settings(home=tmp_path)
        )
        yield opened
        opened.close()

    @pytest.fixture
    def too_long(self) -> str:
        return "word " * CONTEXT


class TestScriptedEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Any:
        return ScriptedEngine(
            lambda text: f"You asked:\n{text[-40:]}\nI know nothing.", context=500
        )

    @pytest.fixture
    def too_long(self) -> str:
        return "word " * 200


class TestSupervisedEngine(SavableEngineContract):
    """Over a scripted engine in the child; `tests/programs/test_supervised.py` has a real model."""

    @pytest.fixture
    def engine(self, started: list[SupervisedEngine]) -> Any:
        # A process costs a second, so one serves until a test closes it.
        if not started or started[-1].closed:
            opening = Opening("tests.resilience.puppet:scripted")
            started.append(SupervisedEngine(opening, SupervisionPolicy(beat_s=0.1)))
        return started[-1]

    @pytest.fixture
    def too_long(self) -> str:
        return "word " * 200
