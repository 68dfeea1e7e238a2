from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.blas import preload_blas
from tests.engine.tiny import write_model

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine

# Whatever test file is collected first imports MLX.
preload_blas()


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def engine(model_folder: Path, settings: Settings) -> Iterator[MlxEngine]:
    opened = open_engine(str(model_folder), EngineOptions(max_tokens=24), settings)
    yield opened
    opened.close()
