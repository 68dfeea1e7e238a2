"""Why the engine ends a call, or takes none, although it can be read."""

from __future__ import annotations


class EngineStopped(RuntimeError):
    """The engine thread has ended; the message says why."""


class QueueFull(RuntimeError):
    """So many calls wait that one more would wait too long; the same call may be made again."""


class TooLarge(ValueError):
    """A call needs more memory than all calls together may use."""


class TooLate(RuntimeError):
    """Whoever made the call has stopped waiting for it."""
