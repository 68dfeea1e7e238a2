"""Reading values out of a TOML table with errors that name the file and the key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import InvalidInput, NotFound, nearest, reject_unknown_keys

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
        where: how messages call it, for example `task.toml [data]`.
        files: paths named so far, shared by all tables of the file.
    """

    values: Mapping[str, Any]
    folder: Path
    where: str
    files: list[str] = field(default_factory=list)

    def table(self, key: str) -> Table | None:
        """A nested table, or None."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise InvalidInput(f"{self.where}: {key} must be a table, written [{key}]")
        return Table(value, self.folder, f"{self.where} [{key}]", self.files)

    def only(self, *keys: str) -> None:
        """Refuse keys beside these."""
        reject_unknown_keys(self.values, keys, self.where)

    def text(self, key: str, default: str | None = None) -> str:
        """A text; required without a default."""
        if key not in self.values and default is not None:
            return default
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            problem = "is missing" if value is None else f"must be a text, got {value!r}"
            raise InvalidInput(f"{self.where}: {key} {problem}; write {key} = '...'")
        return value

    def optional_text(self, key: str) -> str | None:
        """A text, or None where the key is absent."""
        return self.text(key) if key in self.values else None

    def name(self, key: str) -> str:
        """A text that may stand in file names."""
        value = self.text(key)
        check_name(value, f"{self.where}: {key}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, at least one."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise InvalidInput(f"{self.where}: {key} must be a list of texts, got {value!r}")
        return tuple(value)

    def number(self, key: str, default: float, most: float = 1.0) -> float:
        """A number from 0 to `most`."""
        value = self.values.get(key, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= most:
            raise InvalidInput(
                f"{self.where}: {key} must be a number from 0 to {most:g}, got {value!r}"
            )
        return float(value)

    def whole(self, key: str, default: int, least: int = 0) -> int:
        """A whole number of at least `least`."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidInput(
                f"{self.where}: {key} must be a whole number of at least {least}, got {value!r}"
            )
        return value

    def known(self, key: str, given: Iterable[str], allowed: Iterable[str]) -> None:
        """Refuse values that are not among those allowed."""
        choices = list(allowed)
        for value in given:
            if value not in choices:
                raise InvalidInput(
                    f"{self.where}: {key} {value!r} unknown; {nearest(value, choices)}"
                )

    def relative(self, name: str) -> str:
        """Note a file of the task by its path in the folder."""
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise InvalidInput(
                f"{self.where}: {name} lies outside the task's folder; copy it into {self.folder}"
            )
        if not (self.folder / path).is_file():
            raise NotFound(f"{self.where}: {name} does not exist in {self.folder}; check the name")
        self.files.append(path.as_posix())
        return path.as_posix()

    def file(self, name: str) -> Path:
        """The full path of a file of the task."""
        return self.folder / self.relative(name)
