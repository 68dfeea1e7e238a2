from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.engine.scripted import ScriptedEngine
from tests.conformance.engine_contract import EngineContract, SavableEngineContract
from tests.engine.tiny import CONTEXT, write_model

preload_blas()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("contract") / "tiny")


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
