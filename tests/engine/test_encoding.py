from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.engine.encoding import PromptEncoder
from tests.engine.tiny import write_tokenizer

MARKS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
texts = st.lists(st.sampled_from([*MARKS, "user\n", "<|im_", " a", "b ", "é🙂", "\n", "  "])).map(
    "".join
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from mlx_lm.tokenizer_utils import load

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return load(folder)


@pytest.fixture(scope="module")
def metaspace(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer that puts a space before the first word, as SentencePiece does."""
    from mlx_lm.tokenizer_utils import load
    from tokenizers import Tokenizer, pre_tokenizers

    folder: Path = tmp_path_factory.mktemp("metaspace")
    write_tokenizer(folder)
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    inner.save(str(folder / "tokenizer.json"))
    return load(folder)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
@pytest.mark.parametrize("kind", ["plain", "metaspace"])
def test_pieces_have_the_tokens_of_the_whole(
    kind: str, plain: Any, metaspace: Any, prompts: list[str]
) -> None:
    tokenizer = {"plain": plain, "metaspace": metaspace}[kind]
    encoder = PromptEncoder(tokenizer)
    for prompt in [*prompts, *prompts]:
        for special in (False, True):
            whole = list(tokenizer.encode(prompt, add_special_tokens=special))

            assert encoder.encode(prompt, special) == whole


def test_a_piece_is_tokenised_once(plain: Any) -> None:
    encoder = PromptEncoder(plain)
    for n in range(5):
        encoder.encode(f"<|im_start|>system\nlong<|im_end|>\n<|im_start|>user\n{n}", False)

    assert len(encoder._pieces) == 2 + 5 + 1


def test_what_was_met_longest_ago_is_forgotten(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspy_toolkit.engine.encoding._KEPT", 2)
    encoder = PromptEncoder(plain)
    for piece in ("a", "b", "a", "c"):
        encoder.encode(piece, False)

    assert list(encoder._pieces) == ["a", "c"]
