"""One call on its way through the chain of engines, and its visit to one of them."""

from __future__ import annotations

from dataclasses import dataclass

from dspy_toolkit.contract import Request


@dataclass(slots=True)
class Call:
    """A request and what may be spent on it.

    Attributes:
        deadline: when its caller must have an answer or an error, by the policy's clock.
        attempts: how often engines may still be asked.
    """

    request: Request
    deadline: float
    attempts: float


@dataclass(slots=True)
class Visit:
    """A call at one engine.

    Attributes:
        due: when this engine's turn ends: the deadline less what its fallbacks keep.
        left: how often this engine may still be asked.
        fair_s: the time an attempt must have had before running into the deadline counts
            against the engine; a caller in a hurry says nothing about it.
        failure: what it failed with last.
    """

    call: Call
    engine: str
    due: float
    left: float
    fair_s: float
    failure: BaseException | None = None

    def spend(self) -> None:
        """Count an attempt, just before the engine is asked."""
        self.left -= 1
        self.call.attempts -= 1
