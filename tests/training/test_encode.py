from __future__ import annotations

from typing import Any

import pytest

from dspy_toolkit.engine.chat import Chat as Template
from dspy_toolkit.training.encode import Encoder
from dspy_toolkit.training.examples import (
    Chat,
    Completion,
    InvalidExample,
    Piece,
    Pieces,
    Turn,
)

TALK = Chat(
    (
        Turn("system", "Name the topic."),
        Turn("user", "the box broke"),
        Turn("assistant", "parcel"),
        Turn("user", "my card"),
        Turn("assistant", "billing"),
    ),
    "here:1",
)


def answers(tokenizer: Any, encoder: Encoder, example: Chat | Completion) -> list[str]:
    """The runs of tokens that the loss falls on, as text."""
    encoded = encoder(example)
    runs: list[list[int]] = []
    before = 0.0
    for token, marked in zip(encoded.tokens.tolist(), encoded.weights.tolist(), strict=True):
        if marked and not before:
            runs.append([])
        if marked:
            runs[-1].append(token)
        before = marked
    return [tokenizer.decode(run) for run in runs]


def test_the_loss_falls_on_every_answer_and_its_end(tokenizer: Any) -> None:
    assert answers(tokenizer, Encoder(tokenizer), TALK) == ["parcel<|im_end|>", "billing<|im_end|>"]


def test_the_loss_falls_on_the_last_answer_alone_when_asked(tokenizer: Any) -> None:
    assert answers(tokenizer, Encoder(tokenizer, "last"), TALK) == ["billing<|im_end|>"]


def test_tokens_before_an_answer_are_those_an_engine_reads(tokenizer: Any) -> None:
    template = Template(tokenizer, {})
    turns = [{"role": turn.role, "content": turn.content} for turn in TALK.turns[:-1]]

    encoded = Encoder(tokenizer, "last")(TALK)

    prompt = template.encode(template.render(turns, [], {}))
    assert encoded.tokens.tolist()[: len(prompt)] == prompt
    assert not encoded.weights[: len(prompt)].any()
    assert encoded.weights[len(prompt) :].all()


def test_a_whole_conversation_reads_as_its_template_writes_it(tokenizer: Any) -> None:
    turns = [{"role": turn.role, "content": turn.content} for turn in TALK.turns]
    written = tokenizer.apply_chat_template(turns, tokenize=False)

    assert tokenizer.decode(Encoder(tokenizer)(TALK).tokens.tolist()) == written.rstrip("\n")


def test_a_completion_is_prompt_then_answer_then_end(tokenizer: Any) -> None:
    example = Completion("2 + 2 =", " 4", "here:1")

    assert answers(tokenizer, Encoder(tokenizer), example) == [" 4<|im_end|>"]
    assert tokenizer.decode(Encoder(tokenizer)(example).tokens.tolist()) == "2 + 2 = 4<|im_end|>"


def test_a_template_that_rewrites_earlier_answers_is_refused(tokenizer: Any) -> None:
    forgetful = "{% for m in messages[-2:] %}{{ m['content'] }}|{% endfor %}"
    before = tokenizer.chat_template
    tokenizer.chat_template = forgetful
    try:
        with pytest.raises(InvalidExample, match=r'here:1: .* answers = "last"'):
            Encoder(tokenizer)(TALK)
    finally:
        tokenizer.chat_template = before


def test_pieces_are_tokenized_apart_with_their_weights(tokenizer: Any) -> None:
    example = Pieces((Piece("topic: ", 0.0), Piece("parcel", 0.5), Piece("<|im_end|>", 1.0)), "a:1")

    encoded = Encoder(tokenizer)(example)

    assert encoded.tokens.tolist()[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(encoded.tokens.tolist()) == "topic: parcel<|im_end|>"
    assert encoded.weights.tolist()[-2:] == [0.5, 1.0]
    assert not encoded.weights[:-2].any()
