"""Handing the interpreter to the engine thread soon, while it is at work.

A thread that comes back from MLX or NumPy waits for whoever runs Python meanwhile, by default for
up to 5 ms, dozens of times in a step. Callers who prepare their next call would hold up every step.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SOON_S = 0.0005
_lock = threading.Lock()
_before: list[float] = []


@contextmanager
def soon() -> Iterator[None]:
    """Inside, and in other engine threads that are inside, threads take turns more often."""
    with _lock:
        _before.append(sys.getswitchinterval())
        sys.setswitchinterval(min(_SOON_S, _before[0]))
    try:
        yield
    finally:
        with _lock:
            first = _before[0]
            _before.pop()
            if not _before:
                sys.setswitchinterval(first)
