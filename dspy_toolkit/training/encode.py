"""From examples to tokens, with the weight of each in the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dspy_toolkit.engine.chat import Chat as Template
from dspy_toolkit.engine.chat import PromptRefused
from dspy_toolkit.training.examples import (
    Chat,
    Completion,
    Example,
    InvalidExample,
    Pieces,
)

Weighted = tuple[list[int], float]
READ, LEARN = 0.0, 1.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as a model reads it.

    Attributes:
        tokens: (length,) int32.
        weights: (length,) float32, how much each token counts in the loss; 0 is only read.
        place: where the example was read.
    """

    tokens: np.ndarray
    weights: np.ndarray
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
        match example:
            case Chat():
                pieces = self._of_chat(example)
            case Completion():
                pieces = self._of_text(example)
            case Pieces():
                pieces = [(self._plain(piece.text), piece.weight) for piece in example.pieces]
        tokens = [token for piece, _ in pieces for token in piece]
        weights = [weight for piece, weight in pieces for _ in piece]
        return Encoded(np.array(tokens, np.int32), np.array(weights, np.float32), example.place)

    def _of_text(self, example: Completion) -> list[Weighted]:
        answer = [*self._plain(example.completion), self._end]
        return [(list(self._tokenizer.encode(example.prompt)), READ), (answer, LEARN)]

    def _of_chat(self, example: Chat) -> list[Weighted]:
        turns = [{"role": turn.role, "content": turn.content} for turn in example.turns]
        spoken = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        if self._answers == "last":
            spoken = spoken[-1:]
        pieces: list[Weighted] = []
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
            pieces.append((self._plain(after[len(before) :]), LEARN))
            done = after
        return [*pieces, ([self._end], LEARN)]

    def _between(self, text: str, after_answer: bool) -> list[Weighted]:
        if not after_answer:
            return [(self._template.encode(text), READ)]
        if text.startswith(self._end_text):
            return [([self._end], LEARN), (self._plain(text[len(self._end_text) :]), READ)]
        return [(self._plain(text), READ)]

    def _render(self, turns: list[dict[str, str]], place: str) -> str:
        try:
            return self._template.render(turns, [], {})
        except PromptRefused as error:
            raise InvalidExample(f"{place}: {error}") from None

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))
