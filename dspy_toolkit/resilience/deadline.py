"""Deadlines a caller sets around a piece of work that may make several calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_due: ContextVar[float] = ContextVar("dspy_toolkit_due", default=math.inf)


@contextmanager
def within(seconds: float, now: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Give every guarded call in the block no more than what is left of `seconds`.

    Blocks may be nested; the earliest deadline holds. The policy's own deadline holds as well.

    Args:
        seconds: from now.
        now: tells the time, where the guarded engine has another clock than the machine's.
    """
    token = _due.set(min(_due.get(), now() + seconds))
    try:
        yield
    finally:
        _due.reset(token)


def due() -> float:
    """When the block around the caller must end, by its clock; infinity outside of any."""
    return _due.get()
