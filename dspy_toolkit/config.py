"""Settings: defaults, then `<home>/config.toml`, then `DSPY_TK_*` variables, then flags.

The only reader of `os.environ`.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import InvalidInput, reject_unknown_keys

_PREFIX = "DSPY_TK_"


@dataclass(frozen=True)
class Settings:
    """What a user may set. Each field is a key of `config.toml` and a `DSPY_TK_` variable.

    Attributes:
        home: where runs, the history database and the call cache lie; `~` is the user's folder.
        model: model reference used where neither the task nor a flag names one.
        threads: evaluation threads, each waiting on one model call.
        device: "auto", "gpu" or "cpu".
        dtype: "auto", "float32", "float16" or "bfloat16".
        blas: path of a BLAS library to load before MLX on Linux, "auto" to look for one, or "off".
        cache: whether answers are kept and reused across runs.
        supervised: whether models run in processes of their own, which are watched and started
            again when they fail; `serve` does so unless this says no.
    """

    home: Path = Path("~/.dspy-toolkit")
    model: str = "embedded"
    threads: int = 16
    device: str = "auto"
    dtype: str = "auto"
    blas: str = "auto"
    cache: bool = True
    supervised: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "home", Path(self.home).expanduser().absolute())

    @property
    def runs(self) -> Path:
        """Folder of all runs."""
        return self.home / "runs"

    @property
    def database(self) -> Path:
        """The run history, SQLite."""
        return self.home / "history.sqlite"

    @property
    def call_cache(self) -> Path:
        """Folder of cached model answers."""
        return self.home / "cache"

    @property
    def signatures(self) -> Path:
        """Folder of the signatures a user installed."""
        return self.home / "signatures"


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        flags: values from the command line or the caller; None values are as if absent.
        environ: stands in for `os.environ`.
        defaults: what a setting is that nobody set, where that is not the usual.

    Raises:
        InvalidInput: a value does not fit its key, or home cannot be. UnknownKey: `config.toml`,
            a flag or a `DSPY_TK_` variable has a wrong name.
    """
    variables = os.environ if environ is None else environ
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    reject_unknown_keys(given, _TYPES, "settings")
    reject_unknown_keys(
        (name for name in variables if name.startswith(_PREFIX)),
        {_PREFIX + key.upper() for key in _TYPES},
        "environment",
    )
    home = given.get("home") or variables.get(f"{_PREFIX}HOME") or Settings.home
    folder = Path(home).expanduser().absolute()
    _check_home(folder)
    values = {
        **(defaults or {}),
        **_from_file(folder / "config.toml"),
        **_from_environ(variables),
        **given,
        "home": folder,
    }
    return Settings(**{key: _fitted(key, value) for key, value in values.items()})


def _check_home(folder: Path) -> None:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise InvalidInput(
            f"home {folder} cannot be: {there} is no folder; choose another with {_PREFIX}HOME"
        )


def secret(name: str, environ: Mapping[str, str] | None = None) -> str:
    """The value of an environment variable that holds a key, for use and never for keeping.

    Raises:
        InvalidInput: it is not set.
    """
    found = (os.environ if environ is None else environ).get(name, "")
    if not found:
        raise InvalidInput(f"the environment variable {name} is not set; put the key into it")
    return found


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidInput(f"settings {path} cannot be read: {error}") from None
    reject_unknown_keys(values, set(_TYPES) - {"home"}, f"settings {path}")
    return values


def _from_environ(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        key: variables[_PREFIX + key.upper()]
        for key in _TYPES
        if variables.get(_PREFIX + key.upper())
    }


def _fitted(key: str, value: Any) -> Any:
    kind = _TYPES[key]
    choices = _CHOICES.get(key)
    if kind is Path:
        return Path(value)
    if kind is bool and isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    if kind is int and isinstance(value, str) and value.isdecimal():
        value = int(value)
    too_small = isinstance(value, int) and not isinstance(value, bool) and value < 1
    if type(value) is not kind or too_small or (choices and value not in choices):
        expected = f"one of {', '.join(choices)}" if choices else _EXPECTED[kind]
        raise InvalidInput(f"setting {key} must be {expected}, got {value!r}")
    return value


_TYPES: dict[str, type] = {
    field.name: type(field.default) if field.name != "home" else Path
    for field in dataclasses.fields(Settings)
}
_CHOICES = {
    "device": ("auto", "gpu", "cpu"),
    "dtype": ("auto", "float32", "float16", "bfloat16"),
}
_BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_EXPECTED: dict[type, str] = {int: "a whole number above 0", bool: "true or false", str: "a text"}
