"""Reading signature files: one record, or every defect with its line and the way out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.registry.build import build
from dspy_toolkit.registry.record import SignatureRecord
from dspy_toolkit.registry.rules import VERSION, Problem
from dspy_toolkit.registry.toml_lines import Lines
from dspy_toolkit.store.files import read_text

_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_WHAT = "signature file"


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing wrong in a signature file."""

    path: Path
    line: int
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}; {self.fix}"


class InvalidSignature(InvalidInput):
    """A signature file has defects.

    Attributes:
        defects: all of them.
    """

    def __init__(self, defects: tuple[Defect, ...]) -> None:
        rest = len(defects) - 1
        more = f" ({rest} more: run `dspy-tk signatures check {defects[0].path}`)" if rest else ""
        super().__init__(f"{defects[0]}{more}")
        self.defects = defects


def load_file(path: Path) -> SignatureRecord:
    """Read one signature file.

    A file named as a version, `<name>/<version>.toml`, must hold that name and version; a file
    of another name, such as a task's `signature.toml`, may hold any.

    Raises:
        NotFound: no such file. InvalidSignature: it has defects.
    """
    return read_record(read_text(path, _WHAT), path)


def read_record(text: str, path: Path) -> SignatureRecord:
    """Read the text of a signature file that lies, or will lie, at a path; see `load_file`."""
    record, defects = _read(text, path)
    if record is None:
        raise InvalidSignature(defects)
    return record


def existing(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Signature folders that a caller gave.

    Raises:
        NotFound: one does not exist.
    """
    given = tuple(folders)
    for folder in given:
        if not folder.is_dir():
            raise NotFound(f"signature folder {folder} does not exist; check the path")
    return given


def check(path: Path) -> list[Defect]:
    """Every defect of a signature file, or of all signature files of a folder.

    Raises:
        NotFound: no such file or folder, or the folder holds none.
        InvalidInput: it cannot be read as text.
    """
    if not path.is_dir():
        return list(_read(read_text(path, _WHAT), path)[1])
    files = _files(path)
    if not files:
        raise NotFound(
            f"there is nothing to check in {path}: it holds no NAME/VERSION.toml; "
            "name a file, or the folder that holds the signatures' own folders"
        )
    defects: list[Defect] = []
    for file in files:
        if VERSION.fullmatch(file.stem):
            defects += _read(read_text(file, _WHAT), file)[1]
        else:
            fix = "rename it, for example 1.0.0.toml"
            defects.append(Defect(file, 1, f"file name {file.stem!r} is no version", fix))
    return defects


def holds_signatures(folder: Path) -> bool:
    """Whether there is anything for `check` in a folder."""
    return bool(_files(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.toml"))


def _read(text: str, path: Path) -> tuple[SignatureRecord | None, tuple[Defect, ...]]:
    try:
        return _parsed(text, path)
    except RecursionError:
        return None, (Defect(path, 1, "the file is nested too deeply", "make it flatter"),)


def _parsed(text: str, path: Path) -> tuple[SignatureRecord | None, tuple[Defect, ...]]:
    try:
        tables = tomllib.loads(text)
    except ValueError as error:
        return None, (_syntax(path, text, error),)
    record, problems = build(tables, path)
    problems += _place(path, tables)
    if not problems:
        return record, ()
    lines = Lines(text)
    return None, tuple(_defects(path, lines, problems))


def _syntax(path: Path, text: str, error: ValueError) -> Defect:
    found = _LINE.search(str(error))
    line = int(found[1]) if found else len(text.splitlines()) or 1
    what = _LINE.sub("", str(error)).strip()
    return Defect(path, line, f"the file is no valid TOML: {what}", "correct this line")


def _place(path: Path, tables: Mapping[str, Any]) -> Iterable[Problem]:
    if not VERSION.fullmatch(path.stem):
        return
    folder = path.absolute().parent.name
    for key, wanted, place in (("name", folder, "folder"), ("version", path.stem, "file")):
        if tables.get(key) != wanted and key in tables:
            what = f"{key} {tables[key]!r} does not match the {place}'s name"
            yield Problem((key,), what, f"write {wanted!r}, or move the file")


def _defects(path: Path, lines: Lines, problems: Iterable[Problem]) -> list[Defect]:
    found = [Defect(path, lines.of(each.path), each.what, each.fix) for each in problems]
    return sorted(dict.fromkeys(found), key=lambda defect: defect.line)
