"""What a caller or the world can do wrong, and what comes of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dspy_toolkit.config import Settings
from dspy_toolkit.engine import EngineOptions, open_engine
from dspy_toolkit.errors import IntegrityError
from tests.conformance.engine_contract import ask, text_of
from tests.engine.test_grammar import held
from tests.engine.test_weighing import weighed
from tests.engine.tiny import write_model

if TYPE_CHECKING:
    from dspy_toolkit.engine.mlx_engine import MlxEngine


def test_a_model_file_that_changes_leaves_the_open_engine_as_it_was(
    tmp_path: Path, settings: Settings
) -> None:
    folder = write_model(tmp_path / "m")
    other = write_model(tmp_path / "other", more={"num_attention_heads": 8})
    before = open_engine(str(folder), EngineOptions(max_tokens=24), settings)
    state = before.dump_state()
    said = before.complete(ask("Who are you?")).text
    for file in ("model.safetensors", "config.json"):
        shutil.copy(other / file, folder / file)
    after = open_engine(str(folder), EngineOptions(max_tokens=24), settings)
    same, another = before.complete(ask("Who are you?")).text, after.complete(ask("Who are you?"))

    with pytest.raises(IntegrityError, match="files or number type differ"):
        before.load_state(state)
    before.close()
    after.close()
    assert after.model_string != before.model_string
    assert same == said
    assert another.text != said


def test_characters_whose_bytes_lie_in_several_tokens_stay_whole(engine: MlxEngine) -> None:
    options = ["東京 🙂", "naïve 👩‍👩‍👧", "ﷺ"]
    for option in options:
        grammar = f'start: "{option}" /[.!]/ "{option}"'
        request = held("Hello", grammar, max_tokens=200)
        pieces = list(engine.stream(request))
        whole = engine.complete(request).text

        assert whole in (f"{option}.{option}", f"{option}!{option}")
        assert text_of(pieces) == whole
    found = engine.complete(weighed("Hello", options)).probabilities

    assert found is not None
    assert found["team"].keys() == set(options)
    assert sum(found["team"].values()) == pytest.approx(1.0)
