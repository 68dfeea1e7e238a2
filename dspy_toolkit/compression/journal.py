"""What a pipeline has done so far, on disk after every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dspy_toolkit.store.files import read_json, write_json

_FILE = "journal.json"


class Journal:
    """Values by key, written atomically each time one is put.

    Args:
        folder: only one process may work in it at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        known = read_json(self._path, "journal") if self._path.is_file() else {}
        self._values: dict[str, Any] = dict(known)

    def get(self, key: str) -> Any:
        """A value, or None."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value."""
        self._values[key] = value
        write_json(self._path, self._values)
