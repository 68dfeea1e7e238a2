"""DSPy's call cache, kept in the toolkit's home."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import dspy

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import StorageError
from dspy_toolkit.store.files import storage_errors

LIMIT_BYTES = 4 * 2**30
_KEY = "dspy_toolkit_settings"


def use_call_cache(settings: Settings) -> None:
    """Keep model answers in `<home>/cache`, for this process and those after it.

    DSPy has one cache a process; a second home replaces the first. Stored answers are plain data:
    reading the cache never runs code that someone put there.

    Raises:
        StorageError: the folder cannot be written, or what lies there is damaged.
    """
    folder = settings.call_cache
    # The attribute appears when DSPy first needs its cache; asking for it would make the default
    # one in the user's home.
    current = vars(dspy).get("cache")
    if not settings.cache or (current is not None and current.disk_cache_dir == str(folder)):
        return
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            dspy.configure_cache(
                disk_cache_dir=str(folder),
                disk_size_limit_bytes=LIMIT_BYTES,
                restrict_pickle=True,
            )
        except sqlite3.Error as error:
            raise StorageError(
                f"call cache {folder} cannot be used ({error}); free some space, "
                "or delete the folder: it holds only copies"
            ) from None
    if current is not None and current.enable_disk_cache:
        current.disk_cache.close()


class Keep(int):
    """Whether DSPy may keep an answer: it asks before the call, and again after it."""

    def __init__(self, wanted: bool) -> None:
        self._kept = wanted

    def __new__(cls, wanted: bool) -> Keep:
        return super().__new__(cls, wanted)

    def __bool__(self) -> bool:
        return self._kept

    def drop(self) -> None:
        """Do not keep it after all."""
        self._kept = False


@contextmanager
def under(settings: Settings) -> Iterator[None]:
    """Make models opened inside, by a metric for example, use these settings."""
    with dspy.context(**{_KEY: settings}):
        yield


def current_settings() -> Settings:
    """The settings of the surrounding `under`, or else those of the environment."""
    found = dspy.settings.get(_KEY)
    return found if isinstance(found, Settings) else load_settings()
