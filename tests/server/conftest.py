from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.programs.artifact import Artifact
from dspy_toolkit.programs.served import open_program
from dspy_toolkit.server import Catalog, PredictionCache, ServedModel
from tests.deployment.making import write_artifact
from tests.server.serving import Running, running

preload_blas()


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("home"), device="cpu", cache=False)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Artifact:
    return write_artifact(tmp_path_factory.mktemp("artifacts") / "routing", settings)


def filled_catalog(settings: Settings, artifact: Artifact) -> Catalog:
    """The embedded model as `nano`, and a program `routing`."""
    catalog = Catalog()
    engine = open_engine("embedded", EngineOptions(max_tokens=32), settings)
    catalog.models["nano"] = ServedModel.over("nano", engine)
    catalog.shelf.put(open_program(artifact, "routing", "v1", settings))
    return catalog


@pytest.fixture(scope="session")
def served(settings: Settings, artifact: Artifact) -> Iterator[Running]:
    catalog = filled_catalog(settings, artifact)
    with running(catalog, cache=PredictionCache()) as started:
        yield started
    catalog.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
