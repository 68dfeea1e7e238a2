"""Which limit of an attempt comes next, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dspy_toolkit.contract import StreamDeltaEvent, StreamEvent
from dspy_toolkit.resilience.policy import TimeoutPolicy


@dataclass(slots=True)
class Limits:
    """The limits of one attempt. Times are by the policy's clock; infinity is no limit.

    Attributes:
        started: when the attempt began.
        deadline: when the caller must have its answer or error.
        whole: when the engine must be done.
        token: when its next token must have come.
    """

    timeouts: TimeoutPolicy
    started: float
    deadline: float
    whole: float = math.inf
    token: float = math.inf
    first_token_s: float | None = None

    def __post_init__(self) -> None:
        self.whole = self.started + _or_never(self.timeouts.whole_s)

    def watch_tokens(self) -> None:
        """Expect tokens from now on."""
        self.token = self.started + _or_never(self.timeouts.first_token_s)

    def heard(self, event: StreamEvent, now: float) -> None:
        """An event came; if it holds a token, the next one is due."""
        if not is_token(event):
            return
        if self.first_token_s is None:
            self.first_token_s = now - self.started
        self.token = now + _or_never(self.timeouts.between_tokens_s)

    def paused(self, seconds: float) -> None:
        """The reader took its time; the engine is not to blame for that."""
        self.started += seconds
        self.whole += seconds
        self.token += seconds

    def left_s(self, now: float) -> float | None:
        """Seconds to the next limit; None where there is none."""
        first = min(self.deadline, self.whole, self.token)
        return None if first == math.inf else first - now

    def passed(self) -> tuple[str, float]:
        """The limit that comes first: its name, and its length in seconds."""
        first = min(self.deadline, self.whole, self.token)
        if first == self.token:
            name = "first_token" if self.first_token_s is None else "between_tokens"
            return name, getattr(self.timeouts, f"{name}_s")
        return "whole" if first == self.whole else "deadline", first - self.started


def is_token(event: StreamEvent) -> bool:
    """Whether an event holds a piece of the answer. Empty text keeps a dead stream open."""
    return isinstance(event, StreamDeltaEvent) and getattr(event.delta, "text", None) != ""


def _or_never(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
