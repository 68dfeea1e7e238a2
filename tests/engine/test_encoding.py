from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspy_toolkit.engine.encoding import PromptEncoder
from tests.engine.tiny import write_tokenizer

# Tokens that overlap each other, as those of a template written out as tokens do.
OVERLAPPING = ["\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "a<|im_", "user\n"]
MARKS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", *OVERLAPPING]
texts = st.lists(
    st.sampled_from([*MARKS, "<|im_", " a", "b ", "é🙂", "\n", "  ", "start|>"]), max_size=12
).map("".join)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from mlx_lm.tokenizer_utils import load
    from tokenizers import AddedToken, Tokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    inner.add_tokens([AddedToken(each, normalized=False) for each in OVERLAPPING])
    inner.save(str(folder / "tokenizer.json"))
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


@settings(max_examples=150, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4), texts)
@pytest.mark.parametrize("kind", ["plain", "metaspace"])
def test_tokens_are_those_of_the_whole_text_whatever_was_met_before(
    kind: str, plain: Any, metaspace: Any, endings: list[str], beginning: str
) -> None:
    tokenizer = {"plain": plain, "metaspace": metaspace}[kind]
    encoder = PromptEncoder(tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dspy_toolkit.engine.encoding._WORTH_KEEPING", 1)
        for ending in [*endings, *endings]:
            for special in (False, True):
                text = 3 * beginning + ending
                whole = list(tokenizer.encode(text, add_special_tokens=special))

                assert encoder.encode(text, special) == whole


def prompt(ending: str, words: int = 300) -> str:
    demos = "<|im_start|>user\nticket<|im_end|>\n" * words
    return f"<|im_start|>system\nlong<|im_end|>\n{demos}<|im_start|>user\n{ending}"


def test_only_the_end_of_a_prompt_is_tokenised_again(plain: Any) -> None:
    encoder = PromptEncoder(plain)
    encoder.encode(prompt("one"), False)
    known, begin, count = encoder._match(prompt("two"))

    assert known is not None
    assert len(prompt("two")) - begin < 100
    assert known.tokens[:count] == plain.encode(prompt("two"), add_special_tokens=False)[:count]


def test_what_was_of_use_longest_ago_is_forgotten(
    plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspy_toolkit.engine.encoding._KEPT", 2)
    encoder = PromptEncoder(plain)
    for start in ("a", "b", "a", "c"):
        encoder.encode(start + prompt("end"), False)

    assert [text[0] for text in encoder._known] == ["a", "c"]
