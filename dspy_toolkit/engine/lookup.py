"""Guessing what a row says next from what it has read and said: answers often repeat their prompt.

The last few tokens are looked for further up; what followed them there is the guess. A guess costs
width in one run of the model and saves a run for every token that is right, so a row whose guesses
are wrong makes shorter ones, then pauses, for longer each time.

Source: Saxena, "Prompt Lookup Decoding", github.com/apoorvumang/prompt-lookup-decoding, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Tokens that must be the same for what follows them to be a guess.
_MATCH = 3
# Tokens a row says before its first guess: most answers under a grammar are shorter.
_BEGIN = 8
_FIRST = 4
_PAUSE = 8
# Of a step in the pace of such steps; steps with guesses before they are judged, and without them
# after they were found too dear.
_WEIGHT, _TRIES, _REST = 0.2, 8, 256


class Lookup:
    """Guesses for one row.

    Args:
        most: longest guess.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._length = min(_FIRST, most)
        self._pause = _PAUSE
        # Tokens the row must have before the next guess; unknown until it has been looked at.
        self._until: int | None = None
        self._followed: dict[tuple[int, ...], int] = {}
        self._read = 0

    def guess(self, tokens: Sequence[int], room: int) -> list[int]:
        """What may come next.

        Args:
            tokens: all the row has read and said, in order; they only grow.
            room: longest guess that is of use now.
        """
        length = min(self._length, room)
        if length < 1 or not self.finds(tokens):
            return []
        place = self._followed[tuple(tokens[-_MATCH:])]
        return list(tokens[place : place + length])

    def finds(self, tokens: Sequence[int]) -> bool:
        """Whether there is a guess."""
        if self._until is None:
            self._until = len(tokens) + _BEGIN
        if len(tokens) < self._until or len(tokens) <= _MATCH:
            return False
        # What stands at the very end has nothing behind it yet.
        for end in range(max(self._read, _MATCH), len(tokens)):
            self._followed[tuple(tokens[end - _MATCH : end])] = end
        self._read = len(tokens)
        return tuple(tokens[-_MATCH:]) in self._followed

    def learn(self, guessed: int, right: int) -> None:
        """Hear how many tokens of a guess were right."""
        if right == guessed:
            self._length = min(2 * self._length, self._most)
            self._pause = _PAUSE
        elif right:
            self._length = max(right, 1)
            self._pause = _PAUSE
        else:
            self._length = max(self._length // 2, 1)
            self._until = self._read + self._pause
            self._pause = min(2 * self._pause, 16 * _PAUSE)


@dataclass
class _Pace:
    """Tokens a second of steps of so many rows, and how long nothing is guessed."""

    plain: float = 0.0
    guessing: float = 0.0
    tried: int = 0
    resting: int = 0


class Worth:
    """Whether guessing pays on this machine: some take a wide step for many times a narrow one.

    Steps with guesses and without are held against each other, for each number of rows. Where
    those with guesses bring fewer tokens a second, none are made for a while.
    """

    def __init__(self) -> None:
        self._paces: dict[int, _Pace] = {}

    def allows(self, rows: int) -> bool:
        """Whether a step of so many rows may have guesses."""
        pace = self._paces.setdefault(rows, _Pace())
        if pace.resting:
            pace.resting -= 1
            return False
        return True

    def learn(self, rows: int, tokens: int, seconds: float, guessed: bool) -> None:
        """Hear what a step has brought."""
        pace = self._paces.setdefault(rows, _Pace())
        rate = tokens / max(seconds, 1e-9)
        if not guessed:
            pace.plain += (rate - pace.plain) * (_WEIGHT if pace.plain else 1.0)
            return
        pace.guessing += (rate - pace.guessing) * (_WEIGHT if pace.tried else 1.0)
        pace.tried += 1
        if pace.tried >= _TRIES and pace.guessing < pace.plain:
            pace.tried, pace.resting = 0, _REST
