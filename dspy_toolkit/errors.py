"""The error tree. Every failure a user can cause or meet is a `ToolkitError`.

A message says what was wrong, the value, and the next step, on one line. `exit_code` is what
`dspy-tk` exits with; `retryable` says whether the same call may succeed when made again.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ToolkitError(Exception):
    """Root of all errors the toolkit raises on purpose."""

    exit_code = 1
    retryable = False


class NotFound(ToolkitError):
    """A thing asked for by name or path does not exist."""

    exit_code = 3


class InvalidInput(ToolkitError):
    """A file, option or value given by the user is not acceptable."""

    exit_code = 4


class IntegrityError(ToolkitError):
    """Stored content does not match its digest, or is damaged."""

    exit_code = 5


class EngineError(ToolkitError):
    """A model could not be loaded or could not answer."""

    exit_code = 6


class StorageError(ToolkitError):
    """Nothing could be written: no space, no permission, or a locked file."""

    exit_code = 7


class MissingExtra(ToolkitError):
    """An optional dependency is needed and not installed."""

    exit_code = 8

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed; "
            f"run `pip install 'dspy-toolkit[{extra}]'`"
        )


class UnknownKey(InvalidInput):
    """A file or option names a key that does not exist."""

    def __init__(self, key: str, known: Iterable[str], where: str) -> None:
        super().__init__(f"{where}: unknown key {key!r}; {nearest(key, known)}")
        self.key = key


def nearest(name: str, known: Iterable[str]) -> str:
    """Phrase the way out of a misspelt name: the closest known one, or all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none is known"


def reject_unknown_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise `UnknownKey` for the first key that is not known, in the order given."""
    allowed = set(known)
    for key in given:
        if key not in allowed:
            raise UnknownKey(key, allowed, where)
