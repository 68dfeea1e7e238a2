"""Sharing records: a zip of files with a manifest of their digests, packed and installed."""

from __future__ import annotations

import io
import json
import stat
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound
from dspy_toolkit.registry.lookup import SignatureConflict, SignatureNotFound, find, shipped
from dspy_toolkit.registry.reading import InvalidSignature, read_record
from dspy_toolkit.registry.record import SignatureRecord
from dspy_toolkit.registry.rules import NAME, VERSION
from dspy_toolkit.registry.toml_text import to_toml
from dspy_toolkit.store.files import read_text, refuse_existing, sha256_bytes, write_bytes

MANIFEST = "manifest.json"
FORMAT = 1
MAX_FILES = 1000
MAX_FILE_BYTES = 1_000_000
MAX_TOTAL_BYTES = 20_000_000

# Fixed, so that the same records always make the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Installed:
    """One record of an installed pack; `new` is false where the folder has it, or it ships."""

    record: SignatureRecord
    new: bool


def pack(records: Sequence[SignatureRecord], output: Path) -> None:
    """Write records into a zip file, with a manifest that holds the SHA-256 of each file.

    Raises:
        InvalidInput: there are none, two of one name and version, or `output` exists.
        StorageError: it cannot be written.
    """
    if not records:
        raise InvalidInput("there is nothing to pack; name at least one signature")
    if len({each.reference for each in records}) != len(records):
        raise InvalidInput("a signature is named twice; name each once")
    refuse_existing(output)
    contents = {f"{each.name}/{each.version}.toml": _content(each) for each in records}
    manifest = {
        "format": FORMAT,
        "signatures": [
            {
                "name": each.name,
                "version": each.version,
                "digest": each.digest,
                "file": file,
                "sha256": sha256_bytes(content),
            }
            for each, (file, content) in zip(records, contents.items(), strict=True)
        ],
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        text = json.dumps(manifest, indent=2) + "\n"
        for name, content in {MANIFEST: text.encode(), **contents}.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
    write_bytes(output, buffer.getvalue())


def install(
    path: Path,
    folder: Path,
    folders: Sequence[Path] | None = None,
    settings: Settings | None = None,
) -> list[Installed]:
    """Install every record of a pack, or none; those that ship with the toolkit stay there.

    Args:
        path: the zip file.
        folder: where to, usually `<home>/signatures`.
        folders: searched for conflicts beside it, and what `find` searches too.
        settings: where home is; read from the environment when left out.

    Raises:
        NotFound: no such file. IntegrityError: the pack is damaged, or holds what it should not.
        SignatureConflict: a record of the same name and version has different content.
        StorageError: it cannot be written.
    """
    contents = _read(path)
    records = {name: _record(path, name, text) for name, text in contents.items()}
    places = [*([folder] if folder.is_dir() else []), *(folders or ())]
    for record in records.values():
        _refuse_conflict(record, places, settings)
    standing = (folder, shipped())
    installed = [
        Installed(each, new=not any((place / name).is_file() for place in standing))
        for name, each in records.items()
    ]
    written: list[Path] = []
    try:
        for name, each in zip(contents, installed, strict=True):
            if each.new:
                write_bytes(folder / name, contents[name])
                written.append(folder / name)
    except BaseException:
        _remove(written)
        raise
    return installed


def _content(record: SignatureRecord) -> bytes:
    if record.source is not None and record.source.is_file():
        content = read_text(record.source, "signature file")
        if read_record(content, record.source).digest == record.digest:
            return content.encode()
    return to_toml(record).encode()


def _read(path: Path) -> dict[str, bytes]:
    """The signature files of a pack, each checked against the manifest."""
    if not path.is_file():
        raise NotFound(f"pack {path} does not exist; check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            contents = _members(archive, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise IntegrityError(f"pack {path} is damaged ({error}); get it again") from None
    digests = _digests(contents.pop(MANIFEST, b""), path)
    for name in sorted(digests.keys() ^ contents.keys()):
        what = "lacks" if name in digests else "holds, unnamed in its manifest,"
        raise IntegrityError(f"pack {path} {what} {name}; get it again")
    for name, content in contents.items():
        if sha256_bytes(content) != digests[name]:
            raise IntegrityError(f"pack {path}: {name} was changed (SHA-256 differs); get it again")
    return contents


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    members = archive.infolist()
    if len(members) > MAX_FILES:
        raise IntegrityError(f"pack {path} holds more than {MAX_FILES} files; split it")
    contents: dict[str, bytes] = {}
    for member in members:
        name = member.filename
        kind = stat.S_IFMT(member.external_attr >> 16)
        if not _expected(name) or kind not in (0, stat.S_IFREG) or name in contents:
            raise IntegrityError(
                f"pack {path} holds {name!r}, which is no signature file; do not trust it"
            )
        with archive.open(member) as file:
            contents[name] = file.read(MAX_FILE_BYTES + 1)
        total = sum(map(len, contents.values()))
        if len(contents[name]) > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES:
            raise IntegrityError(f"pack {path}: {name} is too large; do not trust it")
    return contents


def _expected(name: str) -> bool:
    if name == MANIFEST:
        return True
    file = PurePosixPath(name)
    return (
        name == f"{file.parent}/{file.stem}.toml"
        and NAME.fullmatch(str(file.parent)) is not None
        and VERSION.fullmatch(file.stem) is not None
    )


def _digests(manifest: bytes, path: Path) -> dict[str, str]:
    try:
        content: Any = json.loads(manifest)
        listed = {str(each["file"]): str(each["sha256"]) for each in content["signatures"]}
        version = content["format"]
    except (ValueError, KeyError, TypeError):
        raise IntegrityError(f"pack {path} has no valid {MANIFEST}; get it again") from None
    if version != FORMAT:
        raise InvalidInput(f"pack {path} has format {version!r}; update dspy-toolkit to read it")
    return listed


def _record(path: Path, name: str, content: bytes) -> SignatureRecord:
    try:
        return read_record(content.decode(), path / name)
    except UnicodeDecodeError:
        raise IntegrityError(f"pack {path}: {name} is not UTF-8; get it again") from None
    except InvalidSignature as error:
        raise IntegrityError(f"pack {path} holds an invalid signature: {error}") from None


def _refuse_conflict(
    record: SignatureRecord, folders: Sequence[Path], settings: Settings | None
) -> None:
    try:
        known = find(record.reference, folders, settings)
    except SignatureNotFound:
        return
    if known.digest != record.digest:
        raise SignatureConflict(known, record)


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
        if not any(file.parent.iterdir()):
            file.parent.rmdir()
