from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.deployment import Bundle, Deployments, PushOptions
from dspy_toolkit.engine.blas import preload_blas
from tests.deployment.making import opened, write_artifact

preload_blas()


@pytest.fixture(scope="package", autouse=True)
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the embedded model open from test to test: who opens it meanwhile shares it."""
    home = tmp_path_factory.mktemp("home")
    lm = opened(Settings(home=home, device="cpu", cache=False))
    yield
    lm.release()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", device="cpu", cache=False)


@pytest.fixture
def deployments(settings: Settings) -> Deployments:
    return Deployments(settings)


@pytest.fixture(scope="package")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Four programs that differ in their demonstrations, which no test changes."""
    folder = tmp_path_factory.mktemp("artifacts")
    settings = Settings(home=folder / "home", device="cpu", cache=False)
    made = (write_artifact(folder / str(n), settings, demos=n) for n in range(1, 5))
    return tuple(each.folder for each in made)


@pytest.fixture
def artifact(artifacts: tuple[Path, ...]) -> Path:
    return artifacts[0]


@pytest.fixture(scope="package")
def sealed(artifacts: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which they are the versions of `triage`."""
    settings = Settings(home=tmp_path_factory.mktemp("sealed"), device="cpu", cache=False)
    deployment = Deployments(settings).named("triage")
    for each in artifacts:
        deployment.push(each, settings, PushOptions())
    return settings.home


@pytest.fixture
def bundle(sealed: Path, settings: Settings, deployments: Deployments) -> Bundle:
    """The newest of them, in a home of the test's own."""
    shutil.copytree(sealed, settings.home)
    return deployments.find("triage").bundle("candidate")
