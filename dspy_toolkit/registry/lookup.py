"""Finding records by reference on the search path: given folders, the user's, the shipped ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import InvalidInput, NotFound, nearest
from dspy_toolkit.registry.classes import load_class
from dspy_toolkit.registry.reading import existing, load_file
from dspy_toolkit.registry.record import SignatureRecord, version_key
from dspy_toolkit.registry.rules import NAME, VERSION

_PACKAGE = Path(__file__).parents[1]
_CLASS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class SignatureNotFound(NotFound):
    """No record has the name or version asked for."""


class SignatureConflict(InvalidInput):
    """Two files of the search path hold the same name and version with different content."""

    def __init__(self, one: SignatureRecord, other: SignatureRecord) -> None:
        super().__init__(
            f"{one.reference} is there twice with different content, in {_place(one)} and "
            f"{_place(other)}; give one of them a new version, or remove it"
        )


def _place(record: SignatureRecord) -> str:
    return str(record.source or "what is to be written")


def search_path(
    folders: Iterable[Path] | None = None, settings: Settings | None = None
) -> tuple[Path, ...]:
    """The folders searched, in order: those given, `<home>/signatures`, the shipped ones.

    Args:
        folders: searched first.
        settings: where home is; read from the environment when left out.

    Raises:
        NotFound: a given folder does not exist.
    """
    given = existing(folders or ())
    own = (settings or load_settings()).signatures
    standard = (folder for folder in (own, shipped()) if folder.is_dir())
    distinct = {folder.resolve(): folder for folder in reversed([*given, *standard])}
    return tuple(reversed(distinct.values()))


def shipped() -> Path:
    """The folder of ready-made records: inside the installed package, or in a checkout."""
    installed = _PACKAGE / "_data" / "signatures"
    return installed if installed.is_dir() else _PACKAGE.parent / "signatures"


def is_class(reference: str) -> bool:
    """Whether a reference names a Python class, `module:Class`."""
    return _CLASS.fullmatch(reference) is not None


def find(
    reference: str, folders: Sequence[Path] | None = None, settings: Settings | None = None
) -> SignatureRecord:
    """Load a record.

    Args:
        reference: `name` for its highest version, `name@version`, or `module:Class` for a
            DSPy signature class, looked for in `folders` and the working folder too.
        folders: searched first, for example a task's own folder.
        settings: where home is; read from the environment when left out.

    Raises:
        SignatureNotFound: there is none. SignatureConflict: there are two that differ.
        InvalidSignature: its file has defects. InvalidInput: the reference is malformed, or
            the class cannot be expressed as a record.
    """
    if is_class(reference):
        return load_class(reference, tuple(folders or ()))
    name, at, version = reference.partition("@")
    if not NAME.fullmatch(name) or (at and not VERSION.fullmatch(version)):
        raise InvalidInput(
            f"{reference!r} is no signature reference; write name, name@1.0.0 or module:Class"
        )
    places = search_path(folders, settings)
    files = [file for place in places for file in _versions(place, name)]
    if not files:
        raise SignatureNotFound(
            f"signature {name!r} is not registered; {nearest(name, _names(places))}"
        )
    if not at:
        version = max((file.stem for file in files), key=version_key)
    chosen = [file for file in files if file.stem == version]
    if not chosen:
        raise SignatureNotFound(
            f"signature {name!r} has no version {version}; {nearest(version, _stems(files))}"
        )
    return _agreed([load_file(file) for file in chosen])


def list_records(
    folders: Sequence[Path] | None = None, settings: Settings | None = None
) -> list[SignatureRecord]:
    """Every record of the search path, by name and version, each once; see `search_path`.

    Raises:
        SignatureConflict: two files of one name and version differ.
        InvalidSignature: a file has defects.
    """
    places = search_path(folders, settings)
    found: dict[tuple[str, tuple[int, ...]], list[SignatureRecord]] = {}
    for place in places:
        for name in _names([place]):
            for file in _versions(place, name):
                key = (name, version_key(file.stem))
                found.setdefault(key, []).append(load_file(file))
    return [_agreed(found[key]) for key in sorted(found)]


def _agreed(records: Sequence[SignatureRecord]) -> SignatureRecord:
    for other in records[1:]:
        if other.digest != records[0].digest:
            raise SignatureConflict(records[0], other)
    return records[0]


def _versions(folder: Path, name: str) -> list[Path]:
    files = (folder / name).glob("*.toml")
    return [file for file in files if VERSION.fullmatch(file.stem)]


def _names(places: Iterable[Path]) -> list[str]:
    return sorted(
        {
            inner.name
            for place in places
            for inner in place.iterdir()
            if NAME.fullmatch(inner.name) and _versions(place, inner.name)
        }
    )


def _stems(files: Iterable[Path]) -> list[str]:
    return [file.stem for file in files]
