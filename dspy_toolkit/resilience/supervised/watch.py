"""When an engine's process has been silent for too long: bookkeeping, with the time passed in."""

from __future__ import annotations

from dspy_toolkit.resilience.supervised.policy import SupervisionPolicy

STOPPED = "stopped"
NO_HEARTBEAT = "no_heartbeat"
FIRST_TOKEN = "first_token"
BETWEEN_TOKENS = "between_tokens"
MEMORY = "memory"


class Watch:
    """What is known of one process since it took its first call.

    Args:
        now: when the process became ready.
    """

    def __init__(self, policy: SupervisionPolicy, now: float) -> None:
        self._policy = policy
        self._heard_at = now
        self._progress = 0
        self._moved_at: float | None = None
        self._busy_since: float | None = None

    def busy(self, now: float, calls: int) -> None:
        """So many calls are with the process now."""
        if not calls:
            self._busy_since = self._moved_at = None
        elif self._busy_since is None:
            self._busy_since = now

    def heard(self, now: float) -> None:
        """A sign of life came."""
        self._heard_at = now

    def moved(self, now: float) -> None:
        """A piece of an answer came."""
        self._heard_at = now
        if self._busy_since is not None:
            self._moved_at = now

    def overslept(self, seconds: float) -> None:
        """Nobody listened for so long (the machine slept, or this process was stopped); it counts
        for nothing, since the child may have been held up as well."""
        self._heard_at += seconds
        if self._moved_at is not None:
            self._moved_at += seconds
        if self._busy_since is not None:
            self._busy_since += seconds

    def counted(self, now: float, progress: int) -> None:
        """A sign of life came with what the process counts as done since its start."""
        self.heard(now)
        if progress != self._progress:
            self._progress = progress
            self.moved(now)

    def verdict(self, now: float, stopped: bool, memory_bytes: int, most_bytes: int) -> str | None:
        """Why the process must be replaced; None when all is well.

        Args:
            stopped: whether the system has it stopped.
            memory_bytes: what it holds. most_bytes: what it may hold; 0 is no limit.
        """
        policy = self._policy
        silent_s = now - self._heard_at
        if stopped and silent_s > 2 * policy.beat_s:
            return STOPPED
        if silent_s > policy.silent_s:
            return NO_HEARTBEAT
        if most_bytes and memory_bytes > most_bytes:
            return MEMORY
        if self._busy_since is None:
            return None
        if self._moved_at is None:
            return FIRST_TOKEN if now - self._busy_since > policy.first_token_s else None
        return BETWEEN_TOKENS if now - self._moved_at > policy.between_tokens_s else None
