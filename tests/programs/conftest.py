from __future__ import annotations

from collections.abc import Iterator

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.programs.lm import LocalLM
from tests.engine.tiny import write_model

preload_blas()


@pytest.fixture(scope="package")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalLM]:
    """A model that knows nothing, on the machine, with room for long prompts."""
    folder = tmp_path_factory.mktemp("roomy")
    engine = open_engine(
        str(write_model(folder / "m", more={"max_position_embeddings": 4096})),
        EngineOptions(),
        Settings(home=folder, device="cpu"),
    )
    yield LocalLM(engine.model_string, engine=engine, async_engine=engine.async_twin, cache=False)
    engine.close()
