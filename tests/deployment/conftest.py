from __future__ import annotations

from pathlib import Path

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.deployment import Deployments
from dspy_toolkit.engine.blas import preload_blas

preload_blas()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", device="cpu", cache=False)


@pytest.fixture
def deployments(settings: Settings) -> Deployments:
    return Deployments(settings)
