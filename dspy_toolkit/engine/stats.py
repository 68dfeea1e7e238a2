"""Counts of what an engine has done; but for time and memory no machine changes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """What an engine thread has done since its model was loaded.

    Attributes:
        read: prompt tokens that went through the model.
        reused: prompt tokens that did not, because what they begin with was stored.
        decoded: answer tokens drawn from the model's scores.
        forced: answer tokens that a grammar left no choice about.
        joined: calls that another call's answer was for too, as they asked for the same.
        guessed: answer tokens that were guessed ahead, and took part in a run as guesses.
        right: those of them that the model then said.
        weighed: tokens that went through the model only to weigh options.
        runs: times the model was run.
        rows_run: rows that took part in all runs together.
        restored: tokens of prefixes that were read from disk when the model was loaded.
        begun: calls that have left the queue.
        queue_s: how long these waited in it, together, in seconds.
        preempted: times a call had to give its memory to others, and was read again later.
        given_up: calls dropped because nobody waited for them any more.
        refused: calls refused because too many waited.
        prefix_bytes: what stored prefixes take now.
        row_bytes: what the tokens of running calls take now.
    """

    read: int = 0
    reused: int = 0
    decoded: int = 0
    forced: int = 0
    joined: int = 0
    guessed: int = 0
    right: int = 0
    weighed: int = 0
    runs: int = 0
    rows_run: int = 0
    restored: int = 0
    begun: int = 0
    queue_s: float = 0.0
    preempted: int = 0
    given_up: int = 0
    refused: int = 0
    prefix_bytes: int = 0
    row_bytes: int = 0

    @property
    def rows_per_run(self) -> float:
        """How many rows took part in a run, on average."""
        return self.rows_run / self.runs if self.runs else 0.0

    def run(self, rows: int) -> None:
        """Count one run of the model."""
        self.runs += 1
        self.rows_run += rows
