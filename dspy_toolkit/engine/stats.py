"""Counts of what an engine has done, which do not depend on the machine it did it on."""

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
        weighed: tokens that went through the model only to weigh options.
        runs: times the model was run.
        rows_run: rows that took part in all runs together.
    """

    read: int = 0
    reused: int = 0
    decoded: int = 0
    forced: int = 0
    joined: int = 0
    weighed: int = 0
    runs: int = 0
    rows_run: int = 0

    @property
    def rows_per_run(self) -> float:
        """How many rows took part in a run, on average."""
        return self.rows_run / self.runs if self.runs else 0.0

    def run(self, rows: int) -> None:
        """Count one run of the model."""
        self.runs += 1
        self.rows_run += rows
