"""Models small enough to compress inside a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspy_toolkit.compression.calibration import CalibrationSet
from dspy_toolkit.config import Settings
from dspy_toolkit.engine.blas import preload_blas
from tests.compression import making

preload_blas()


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.plain_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def data(
    model: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> CalibrationSet:
    return making.reading(tmp_path_factory.mktemp("text"), model, settings)
