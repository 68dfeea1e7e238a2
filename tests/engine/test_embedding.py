from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dspy_toolkit.contract import Config, ContextLengthError, Message, Request
from dspy_toolkit.engine.opening import open_engine

if TYPE_CHECKING:
    from pathlib import Path

    from dspy_toolkit.config import Settings
    from dspy_toolkit.engine.mlx_engine import MlxEngine


def test_an_embedding_has_length_one_and_does_not_depend_on_what_ran_before(
    engine: MlxEngine,
) -> None:
    first, tokens = engine.embed("The order has not arrived.")
    engine.complete(Request("m", (Message.user("numbers 0 1 2"),), config=Config(max_tokens=3)))
    again, _ = engine.embed("The order has not arrived.")

    assert np.linalg.norm(first) == pytest.approx(1.0)
    assert first == again
    assert tokens > 1


def test_near_texts_have_nearer_embeddings_than_far_ones(settings: Settings) -> None:
    opened = open_engine("embedded", settings=settings)
    late, missing, fruit = (
        np.array(opened.embed(text)[0])
        for text in ("the parcel is late", "the package did not arrive", "bananas")
    )
    opened.close()

    assert late @ missing > late @ fruit


def test_a_text_longer_than_the_context_is_refused_and_the_engine_goes_on(
    engine: MlxEngine,
) -> None:
    with pytest.raises(ContextLengthError):
        engine.embed("order " * 3000)

    assert engine.embed("order")[1] > 0


def test_a_raw_text_goes_to_the_model_without_the_chat_template(
    engine: MlxEngine, model_folder: Path
) -> None:
    plain = Request("m", (Message.user("tickets"),), config=Config(max_tokens=1))
    raw = Request(
        "m", (Message.user("tickets"),), config=Config(max_tokens=1, extensions={"raw": True})
    )

    used = [engine.complete(each).usage.input_tokens for each in (plain, raw)]

    assert used[1] < used[0]
