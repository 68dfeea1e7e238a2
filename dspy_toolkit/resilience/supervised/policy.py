"""How an engine's process is watched, and how it is started again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dspy_toolkit.errors import InvalidInput


@dataclass(frozen=True)
class SupervisionPolicy:
    """How long an engine's process may be silent, and what follows.

    The engine works in batches, so its progress is watched as a whole; `TimeoutPolicy` is for
    single calls.

    Attributes:
        load_s: longest time for starting the process and loading the model, and for opening a
            further engine in it.
        beat_s: pause between two signs of life.
        silent_s: without a sign of life for so long, the process is replaced. One that the
            system has stopped is replaced after two pauses.
        first_token_s: without any progress for so long after calls came, it is replaced.
        between_tokens_s: the same, between one progress and the next.
        memory_bytes: holding more, it is replaced; None takes what the device may hold.
        first_wait_s, max_wait_s: before it is started again; the first time at once, then from
            one, doubling, to the other.
        stable_s: up for so long, it counts as sound again.
        crashes: so many ends within `window_s`, and no sound life between, open the circuit.
        rest_s: how long the circuit stays open before one more start is tried.
        replays: how often a call is made again that a lost process held, where nothing of its
            answer has reached the caller.
    """

    load_s: float = 600.0
    beat_s: float = 0.25
    silent_s: float = 5.0
    first_token_s: float = 120.0
    between_tokens_s: float = 60.0
    memory_bytes: int | None = None
    first_wait_s: float = 0.5
    max_wait_s: float = 30.0
    stable_s: float = 20.0
    crashes: int = 5
    window_s: float = 300.0
    rest_s: float = 60.0
    replays: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_s") and not 0 < value < math.inf:
                raise InvalidInput(f"{name} must be a number of seconds above 0, got {value!r}")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise InvalidInput(f"memory_bytes must be above 0 or None, got {self.memory_bytes!r}")
        if self.crashes < 1 or self.replays < 0:
            raise InvalidInput(
                f"crashes must be at least 1 and replays at least 0, got {self.crashes!r} and "
                f"{self.replays!r}"
            )
        for small, large in _ORDERED:
            one, other = getattr(self, small), getattr(self, large)
            if one > other:
                raise InvalidInput(f"{small} = {one:g} is longer than {large} = {other:g}")


_ORDERED = (
    ("first_wait_s", "max_wait_s"),
    ("beat_s", "silent_s"),
    ("stable_s", "rest_s"),
    ("rest_s", "window_s"),
)
