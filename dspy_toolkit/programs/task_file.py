"""Reading values out of a TOML table with errors that name the file and the key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import InvalidInput, NotFound, nearest, reject_unknown_keys
from dspy_toolkit.registry.record import KeyPath
from dspy_toolkit.registry.toml_lines import Lines

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def check_name(value: str, where: str) -> None:
    """Refuse a name that may not stand in file names.

    Raises:
        InvalidInput: it is empty, longer than 64 characters, or has others than are allowed.
    """
    if not _NAME.fullmatch(value):
        raise InvalidInput(
            f"{where} {value!r} must be small letters, digits, '_' and '-', at most 64 in all"
        )


@dataclass(frozen=True)
class Table:
    """A table of a task file.

    Attributes:
        values: the table.
        folder: the task's folder; files it names lie inside.
        source: the file, as messages call it.
        lines: of the file, for messages.
        path: keys that lead to the table.
        files: paths named so far, shared by all tables of the file.
    """

    values: Mapping[str, Any]
    folder: Path
    source: str
    lines: Lines
    path: KeyPath = ()
    files: list[str] = field(default_factory=list)

    def at(self, key: str | None = None) -> str:
        """How messages call a key's place, or the table's: `task.toml:12 [data]`."""
        path = self.path if key is None else (*self.path, key)
        names = "".join(f" [{name}]" for name in self.path)
        return f"{self.source}:{self.lines.of(path)}{names}"

    def table(self, key: str) -> Table | None:
        """A nested table, or None."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise InvalidInput(f"{self.at(key)}: {key} must be a table, written [{key}]")
        return replace(self, values=value, path=(*self.path, key))

    def only(self, *keys: str) -> None:
        """Refuse keys beside these."""
        for key in self.values:
            reject_unknown_keys([key], keys, self.at(key))

    def text(self, key: str, default: str | None = None) -> str:
        """A text; required without a default."""
        if key not in self.values and default is not None:
            return default
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            problem = "is missing" if value is None else f"must be a text, got {value!r}"
            raise InvalidInput(f"{self.at(key)}: {key} {problem}; write {key} = '...'")
        return value

    def optional_text(self, key: str) -> str | None:
        """A text, or None where the key is absent."""
        return self.text(key) if key in self.values else None

    def name(self, key: str) -> str:
        """A text that may stand in file names."""
        value = self.text(key)
        check_name(value, f"{self.at(key)}: {key}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, at least one."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise InvalidInput(f"{self.at(key)}: {key} must be a list of texts, got {value!r}")
        return tuple(value)

    def number(self, key: str, default: float, most: float = 1.0) -> float:
        """A number from 0 to `most`."""
        value = self.values.get(key, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= most:
            raise InvalidInput(
                f"{self.at(key)}: {key} must be a number from 0 to {most:g}, got {value!r}"
            )
        return float(value)

    def whole(self, key: str, default: int, least: int = 0) -> int:
        """A whole number of at least `least`."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidInput(
                f"{self.at(key)}: {key} must be a whole number of at least {least}, got {value!r}"
            )
        return value

    def known(self, key: str, given: Iterable[str], allowed: Iterable[str]) -> None:
        """Refuse values that are not among those allowed."""
        choices = list(allowed)
        for value in given:
            if value not in choices:
                raise InvalidInput(
                    f"{self.at(key)}: {key} {value!r} unknown; {nearest(value, choices)}"
                )

    def relative(self, name: str, where: str | None = None) -> str:
        """Note a file of the task by its path in the folder; `where` it is named."""
        path, where = Path(name), where or self._named_at(name)
        if path.is_absolute() or ".." in path.parts:
            raise InvalidInput(
                f"{where}: {name} lies outside the task's folder; copy it into {self.folder}"
            )
        if not (self.folder / path).is_file():
            raise NotFound(f"{where}: {name} does not exist in {self.folder}; check the name")
        self.files.append(path.as_posix())
        return path.as_posix()

    def file(self, name: str) -> Path:
        """The full path of a file of the task."""
        return self.folder / self.relative(name)

    def _named_at(self, name: str) -> str:
        keys = (key for key, value in self.values.items() if value == name)
        return self.at(next(keys, None))
