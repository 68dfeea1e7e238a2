"""From examples to tokens, with a mark on each token that belongs to an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dspy_toolkit.engine.chat import Chat as Template
from dspy_toolkit.engine.chat import PromptRefused
from dspy_toolkit.training.examples import Chat, Completion, Example, InvalidExample


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as a model reads it.

    Attributes:
        tokens: (length,) int32.
        answer: (length,) bool, true where the loss falls.
        place: where the example was read.
    """

    tokens: np.ndarray
    answer: np.ndarray
    place: str


class Encoder:
    """Turns examples into tokens exactly as an engine that serves the model does.

    Prompts and answers are tokenized apart, because a model meets the prompt alone and writes
    the answer after it; every answer ends with the end-of-sequence token.

    Args:
        tokenizer: mlx-lm's wrapper.
        answers: which assistant turns the loss falls on, "all" or "last".
    """

    def __init__(self, tokenizer: Any, answers: str = "all") -> None:
        self._tokenizer = tokenizer
        self._template = Template(tokenizer, {})
        self._answers = answers
        self._end = int(tokenizer.eos_token_id)
        self._end_text = str(tokenizer.decode([self._end]))

    def __call__(self, example: Example) -> Encoded:
        """Encode one example.

        Raises:
            InvalidExample: the model's chat template does not take the conversation.
        """
        pieces = self._of_chat(example) if isinstance(example, Chat) else self._of_text(example)
        tokens = [token for piece, _ in pieces for token in piece]
        marks = [mark for piece, mark in pieces for _ in piece]
        return Encoded(np.array(tokens, np.int32), np.array(marks, bool), example.place)

    def _of_text(self, example: Completion) -> list[tuple[list[int], bool]]:
        answer = [*self._plain(example.completion), self._end]
        return [(list(self._tokenizer.encode(example.prompt)), False), (answer, True)]

    def _of_chat(self, example: Chat) -> list[tuple[list[int], bool]]:
        turns = [{"role": turn.role, "content": turn.content} for turn in example.turns]
        spoken = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        if self._answers == "last":
            spoken = spoken[-1:]
        pieces: list[tuple[list[int], bool]] = []
        done = ""
        for index in spoken:
            before = self._render(turns[:index], example.place)
            after = self._render(turns[: index + 1], example.place)
            if not (before.startswith(done) and after.startswith(before)):
                raise InvalidExample(
                    f"{example.place}: the model's chat template rewrites earlier answers of this "
                    'conversation; set answers = "last" in [data]'
                )
            pieces += self._between(before[len(done) :], bool(done))
            pieces.append((self._plain(after[len(before) :]), True))
            done = after
        return [*pieces, ([self._end], True)]

    def _between(self, text: str, after_answer: bool) -> list[tuple[list[int], bool]]:
        if not after_answer:
            return [(self._template.encode(text), False)]
        if text.startswith(self._end_text):
            return [([self._end], True), (self._plain(text[len(self._end_text) :]), False)]
        return [(self._plain(text), False)]

    def _render(self, turns: list[dict[str, str]], place: str) -> str:
        try:
            return self._template.render(turns, [], {})
        except PromptRefused as error:
            raise InvalidExample(f"{place}: {error}") from None

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))
