from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dspy_toolkit.compression.calibration import CalibrationSet
from dspy_toolkit.compression.techniques import TECHNIQUES
from dspy_toolkit.config import Settings
from dspy_toolkit.engine.blas import preload_blas
from tests.compression import making
from tests.conformance.technique_contract import TechniqueContract

preload_blas()

FEW = {"windows": 4, "length": 16}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.plain_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def model(plain: Path) -> Path:
    return plain


@pytest.fixture(scope="module")
def packed_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.packed_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data(
    plain: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> CalibrationSet:
    return making.reading(tmp_path_factory.mktemp("text"), plain, settings)


class TestRTN(TechniqueContract):
    name = "rtn"
    options: Mapping[str, Any] = {"bits": 4, "group": 32}


class TestRTNInMxfp8(TechniqueContract):
    name = "rtn"
    options: Mapping[str, Any] = {"mode": "mxfp8"}


class TestAWQ(TechniqueContract):
    name = "awq"
    options: Mapping[str, Any] = {"bits": 4, "group": 32, "grid": 2, **FEW}


class TestSmoothQuant(TechniqueContract):
    name = "smoothquant"
    options: Mapping[str, Any] = {"bits": 4, "group": 32, **FEW}


class TestGPTQ(TechniqueContract):
    name = "gptq"
    options: Mapping[str, Any] = {"bits": 4, "group": 32, **FEW}


class TestDWQ(TechniqueContract):
    name = "dwq"
    options: Mapping[str, Any] = {"bits": 4, "group": 32, "steps": 3, "batch": 2}


class TestMixed(TechniqueContract):
    name = "mixed"
    options: Mapping[str, Any] = {"low": 2, "high": 8, "target": 6.0, "group": 32}


class TestPrune(TechniqueContract):
    name = "prune"
    options: Mapping[str, Any] = {"structure": "ffn", "target": 0.1, "length": 16}


class TestPruneAndHeal(TechniqueContract):
    name = "prune"
    options: Mapping[str, Any] = {
        "structure": "width",
        "target": 0.2,
        "heal": True,
        "steps": 3,
        "batch": 2,
        "length": 16,
    }


class TestDistill(TechniqueContract):
    name = "distill"
    options: Mapping[str, Any] = {
        "layers": 1,
        "steps": 3,
        "batch": 2,
        "hidden": 1.0,
        "attribution": True,
        "on_policy": 0.5,
        "length": 16,
    }


@pytest.mark.slow
class TestFactorize(TechniqueContract):
    name = "factorize"
    options: Mapping[str, Any] = {"rank": 8, "embedding": True, "length": 16}
    repeats = False

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return making.wide_model(tmp_path_factory.mktemp("models"))


def test_every_technique_is_held_to_the_contract() -> None:
    held = {
        each.name for each in globals().values() if isinstance(each, type) and hasattr(each, "name")
    }

    assert held >= set(TECHNIQUES)
