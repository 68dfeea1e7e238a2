"""The one mutable record of a call inside the engine, and what the engine tells its caller."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dspy_toolkit.engine.output import OutputReader, Piece, Score
from dspy_toolkit.engine.sampling import Sampling

if TYPE_CHECKING:
    from dspy_toolkit.engine.grammar import Grammar
    from dspy_toolkit.engine.weighing import Choice

Weights = dict[str, dict[str, float]]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token of one row: (its id, its score where the row asked for it)."""

    token: int
    score: Score | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """An answer is complete.

    Attributes:
        reason: "stop" when the model or a stop string ended it, "length" when a limit did.
        pieces: the whole answer.
        prompt_tokens: tokens read.
        reused_tokens: those of the prompt that another call had read before.
        output_tokens: tokens drawn, the one that ends the answer among them.
        seconds_to_first: from submission to the first token.
        seconds: from submission to the last.
        weights: probabilities of options, by the names of the choices that were to be weighed.
    """

    reason: FinishReason
    pieces: tuple[Piece, ...]
    prompt_tokens: int
    reused_tokens: int
    output_tokens: int
    seconds_to_first: float
    seconds: float
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer will not come, because of `error`."""

    error: BaseException


Message = Piece | Finished | Failed


@dataclass(eq=False)
class Sequence:
    """One call. The caller makes it and hands it over; from then on the engine thread owns it.

    Attributes:
        prompt: token ids to read.
        sampling: how tokens are drawn.
        max_tokens: longest answer.
        eos: token ids that end the answer and are no part of it.
        reader: turns tokens into pieces.
        sink: called on the engine thread with pieces (if `streaming`) and once with the end.
        streaming: whether the caller wants pieces as they come.
        logprobs: None for no scores, else how many of the likeliest tokens to score beside the
            drawn one.
        grammar: what the answer is held to, or None.
        choices: places in the answer where options are to be weighed; they need a grammar.
        gives_up_at: when the caller stops waiting, by `time.monotonic`.
        cancelled: set by the caller, from any thread, when nobody waits for the answer any more.
        submitted, begun, first: when it was made, left the queue, and gave its first token.
        reused: tokens of the prompt that were not read, because another call had read them.
    """

    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    eos: frozenset[int]
    reader: OutputReader
    sink: Callable[[Message], None]
    streaming: bool = False
    logprobs: int | None = None
    grammar: Grammar | None = None
    choices: tuple[Choice, ...] = ()
    gives_up_at: float = math.inf
    cancelled: bool = False
    reused: int = 0
    answer: list[int] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    weights: Weights = field(default_factory=dict)
    submitted: float = field(default_factory=time.perf_counter)
    begun: float | None = None
    first: float | None = None
    ended: bool = False

    @property
    def left(self) -> int:
        """Tokens the answer may still have."""
        return self.max_tokens - len(self.answer)

    def accept(self, drawn: Drawn) -> Finished | None:
        """Take the next token; returns what to tell the caller when the answer is complete.

        Tokens that come after that are passed over.
        """
        if self.ended:
            return None
        self.first = self.first or time.perf_counter()
        self.answer.append(drawn.token)
        if drawn.token in self.eos:
            return self._end("stop")
        self._send(self.reader.add(drawn.token, drawn.score))
        if self.reader.stopped:
            return self._end("stop")
        if len(self.answer) >= self.max_tokens:
            return self._end("length")
        return None

    def fail(self, error: BaseException) -> None:
        """Tell the caller that no answer will come."""
        self.sink(Failed(error))

    def _send(self, pieces: list[Piece]) -> None:
        self.pieces += pieces
        if self.streaming:
            for piece in pieces:
                self.sink(piece)

    def _end(self, reason: FinishReason) -> Finished:
        self.ended = True
        self._send(self.reader.finish())
        now = time.perf_counter()
        return Finished(
            reason="stop" if self.reader.stopped else reason,
            pieces=tuple(self.pieces),
            prompt_tokens=len(self.prompt),
            reused_tokens=self.reused,
            output_tokens=len(self.answer),
            seconds_to_first=(self.first or now) - self.submitted,
            seconds=now - self.submitted,
            weights=self.weights,
        )
