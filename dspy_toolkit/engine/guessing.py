"""Guessing ahead in a step of rows that decode, and checking the guesses in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from dspy_toolkit.engine.choice import Chooser
from dspy_toolkit.engine.grammar import Allowed
from dspy_toolkit.engine.lookup import Worth
from dspy_toolkit.engine.prefix_tree import common_length
from dspy_toolkit.engine.row import Row
from dspy_toolkit.engine.runner import Runner
from dspy_toolkit.engine.scoring import weigh
from dspy_toolkit.engine.sequence import Drawn, Sequence
from dspy_toolkit.engine.stats import Counts

# Most tokens of a step with guesses: beyond, its cost grows with them.
_WIDE = 32


class Guessing:
    """What a stepper knows of guessing.

    Args:
        runner, counts: the stepper's.
        clock: tells the time, in seconds.

    Attributes:
        awaited: whether a guess was found for rows whose next token is computed ahead; it can be
            checked when that token is known.
    """

    def __init__(
        self, runner: Runner, counts: Counts, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._runner = runner
        self._counts = counts
        self._clock = clock
        self._worth = Worth()
        self._began = clock()
        self.awaited = False

    def begin(self, rows: list[Row], decodes: bool) -> list[list[int]]:
        """What each row of a step may say behind the token it takes.

        Args:
            rows: of the step.
            decodes: whether all of them take the token they said last, and nothing else.
        """
        self._began, self.awaited = self._clock(), False
        room = _WIDE // len(rows) - 1
        if room < 1 or not decodes or not self._worth.allows(len(rows)):
            return [[] for _ in rows]
        return [row.lookup.guess(row.tokens, min(room, row.sequence.left - 1)) for row in rows]

    def promising(self, rows: list[Row]) -> bool:
        """Whether there is something to guess for rows that decode without a grammar."""
        room = _WIDE // len(rows) - 1 if rows else 0
        self.awaited = (
            room > 0
            and any(row.lookup.finds(row.tokens) for row in rows)
            and self._worth.allows(len(rows))
        )
        return self.awaited

    def end(self, rows: int, tokens: int, guessed: bool) -> None:
        """Hear what a step of decoding rows has brought."""
        now = self._clock()
        self._worth.learn(rows, tokens, now - self._began, guessed)
        self._began = now

    def check(
        self,
        rows: list[Row],
        guesses: list[list[int]],
        logits: mx.array,
        due: Any,
        allowed: Allowed,
    ) -> list[tuple[Sequence, Drawn]]:
        """Draw token by token as if nothing had been guessed, as far as the guesses are right.

        Args:
            rows: that took their last token and a guess behind it.
            guesses: of each row.
            logits: (rows, width, vocab), of what follows each token.
            due: to evaluate along.
            allowed: what the rows may draw first.
        """
        result: list[tuple[Sequence, Drawn]] = []
        right = [0] * len(rows)
        going = list(range(len(rows)))
        while going:
            here = [rows[place] for place in going]
            now = logits[mx.array(going), mx.array([right[place] for place in going])]
            weigh(self._runner, here, now, self._counts)
            drawn = Chooser.draw([row.chooser for row in here], now, due, allowed)
            still = []
            for place, tokens in zip(going, drawn, strict=True):
                row, ids = rows[place], [each.token for each in tokens]
                result += row.say(tokens, self._counts)
                same = common_length(ids, guesses[place][right[place] :])
                right[place] += same
                if same == len(ids) and not row.must_wait:
                    still.append(place)
            going, due = still, []
            allowed = Chooser.allowed([rows[place].chooser for place in going])
        for row, guess, count in zip(rows, guesses, right, strict=True):
            self._settle(row, guess, count)
        return result

    def _settle(self, row: Row, guess: list[int], right: int) -> None:
        """Forget what was guessed wrong; the last token said is always still to be run."""
        kept = min(right, len(row.tokens) - row.done - 1)
        row.done += kept
        self._runner.slots.advance(row.slot, kept - len(guess))
        if guess:
            self._counts.guessed += len(guess)
            self._counts.right += right
            row.lookup.learn(len(guess), right)
