"""Choosing the next tokens of rows: their grammar, their penalties, their chance, their scores."""

from __future__ import annotations

from collections.abc import Sequence as List
from typing import Any

import mlx.core as mx
import numpy as np

from dspy_toolkit.engine.grammar import Allowed
from dspy_toolkit.engine.output import Score
from dspy_toolkit.engine.sampling import greedy, make_processors, make_sampler
from dspy_toolkit.engine.sequence import Drawn, Sequence
from dspy_toolkit.engine.weighing import Weigher


class Chooser:
    """Draws for one row.

    Attributes:
        weigher: knows which options are to be weighed, or None.
    """

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        self._sampler = make_sampler(sequence.sampling)
        self._processors = make_processors(sequence.sampling, len(sequence.prompt))
        self._tokens = [*sequence.prompt, *sequence.answer]
        grammar = sequence.grammar
        self._guide = None if grammar is None else grammar.start(sequence.answer)
        self.weigher = None
        if grammar is not None and sequence.choices:
            self.weigher = Weigher(sequence.choices, grammar.tokenizer, sequence.weights)

    @property
    def free(self) -> bool:
        """Whether the likeliest token is taken every time, with nothing to know of it."""
        return (
            self._guide is None
            and not self._processors
            and self._sampler is greedy
            and self._sequence.logprobs is None
        )

    def take(self, token: int) -> Drawn:
        """Take a token that was drawn elsewhere, for a row that is free."""
        self._tokens.append(token)
        return Drawn(token)

    @property
    def ended(self) -> bool:
        """Whether the grammar lets nothing more follow."""
        return self._guide is not None and self._guide.ended

    def forced(self) -> list[Drawn]:
        """The tokens that must come first, the one that ends the answer among them."""
        return self._forced(self._sequence.answer, free=0)

    def _forced(self, taken: list[int], free: int) -> list[Drawn]:
        """What must come behind the tokens `taken`, the first `free` of which were drawn."""
        if self._guide is None:
            return []
        tokens = self._guide.forced()
        if self.weigher is not None:
            reached = [*taken, *tokens]
            self.weigher.go_on(reached, len(reached) - free, self._guide.coming())
        if self._guide.ended:
            tokens.append(self._guide.eos)
        self._tokens += tokens
        certain = self._sequence.logprobs is not None
        return [Drawn(t, Score(t, 0.0, ((t, 0.0),)) if certain else None) for t in tokens]

    @staticmethod
    def allowed(choosers: List[Chooser]) -> Allowed:
        """Begin to find what rows may draw next; nothing may be drawn for them meanwhile."""
        return Allowed([chooser._guide for chooser in choosers])

    @staticmethod
    def draw(
        choosers: List[Chooser], logits: mx.array, due: Any, allowed: Allowed
    ) -> list[list[Drawn]]:
        """Draw a token for each row, with those that must follow it.

        Args:
            choosers: of the rows.
            logits: (rows, vocab), in the model's number type.
            due: arrays to evaluate along with the tokens.
            allowed: what the rows may draw.
        """
        if any(chooser._processors for chooser in choosers):
            rows = [chooser._processed(logits[n : n + 1]) for n, chooser in enumerate(choosers)]
            logits = mx.concatenate(rows, axis=0)
        mask = allowed.mask(logits.shape[-1])
        if mask is not None:
            logits = mx.where(mx.array(mask), logits, -mx.inf)
        scored = any(chooser._sequence.logprobs is not None for chooser in choosers)
        likeliest = all(chooser._sampler is greedy for chooser in choosers)
        logprobs = logits
        if scored or not likeliest:
            logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        if likeliest:
            tokens = greedy(logits)
        else:
            tokens = mx.concatenate(
                [
                    chooser._sampler(logprobs[n : n + 1], chooser._drawn)
                    for n, chooser in enumerate(choosers)
                ]
            )
        mx.eval(due, tokens, logprobs if scored else [])
        scores = np.array(logprobs.astype(mx.float32)) if scored else None
        return [
            chooser._take(int(token), None if scores is None else scores[n])
            for n, (chooser, token) in enumerate(zip(choosers, np.array(tokens), strict=True))
        ]

    def _processed(self, logits: mx.array) -> mx.array:
        if self._processors:
            context = mx.array(self._tokens)
            for processor in self._processors:
                logits = processor(context, logits)
        return logits

    def _take(self, token: int, scores: np.ndarray | None) -> list[Drawn]:
        self._tokens.append(token)
        drawn = Drawn(token, self._score(token, scores))
        if self._guide is None:
            return [drawn]
        self._guide.take(token)
        return [drawn, *self._forced([token], free=1)]

    @property
    def _drawn(self) -> int:
        """Tokens of the answer so far."""
        return len(self._tokens) - len(self._sequence.prompt)

    def _score(self, token: int, scores: np.ndarray | None) -> Score | None:
        wanted = self._sequence.logprobs
        if wanted is None or scores is None:
            return None
        best = np.argsort(-scores, kind="stable")[: min(wanted, scores.size)]
        top = tuple((int(other), float(scores[other])) for other in best)
        return Score(token, float(scores[token]), top)
