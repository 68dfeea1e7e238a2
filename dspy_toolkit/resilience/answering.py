"""Which engines answer while a piece of work goes on, for whoever wants to say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_noted: ContextVar[list[str] | None] = ContextVar("dspy_toolkit_answering", default=None)


@contextmanager
def noting_engines() -> Iterator[list[str]]:
    """Note the names of guarded engines as they answer, in the block and what it starts.

    Yields:
        Their names, in order; answers that a cache knew ask no engine.
    """
    names: list[str] = []
    token = _noted.set(names)
    try:
        yield names
    finally:
        _noted.reset(token)


def note(engine: str) -> None:
    """An engine has answered."""
    names = _noted.get()
    if names is not None:
        names.append(engine)
