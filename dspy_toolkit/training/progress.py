"""What a run knows of itself besides weights: saved with every checkpoint, read when resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: updates made.
        tokens: read in all.
        seconds: spent on steps, evaluations left out, over all sessions.
        curve: `[step, mean loss since the point before, learning rate]`.
        evaluations: `[step, validation loss]`.
        window: sum of losses and of weights since the last point of the curve.
        resumed_at: steps at which later sessions began.
        damaged: why checkpoints were set aside.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    curve: list[list[float]] = field(default_factory=list)
    evaluations: list[list[float]] = field(default_factory=list)
    window: list[float] = field(default_factory=lambda: [0.0, 0.0])
    resumed_at: list[int] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Progress:
        """Read what `dump` wrote."""
        return cls(**state)

    def dump(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def advance(self, loss: float, weight: float, tokens: int, seconds: float) -> None:
        """Count a step."""
        self.step += 1
        self.tokens += tokens
        self.seconds += seconds
        self.window = [self.window[0] + loss * weight, self.window[1] + weight]

    def close_window(self, rate: float) -> None:
        """Add a point to the curve."""
        total, weight = self.window
        self.curve.append([self.step, total / weight, rate])
        self.window = [0.0, 0.0]

    def loss_at(self, step: int) -> float | None:
        """The validation loss of a step, where it was evaluated."""
        found = [loss for at, loss in self.evaluations if at == step]
        return found[-1] if found else None
