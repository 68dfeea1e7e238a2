"""Manifests: a sealed `manifest.json` beside the files it vouches for, with SHA-256 of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import IntegrityError, NotFound
from dspy_toolkit.store.files import read_json, sha256_file, sha256_json, write_json

NAME = "manifest.json"


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `manifest.json` last, over every other file in the folder.

    Args:
        folder: holds the files to vouch for; hidden files are left out.
        facts: what else to record. The keys `files` and `seal` are the manifest's own.
    """
    content = {**facts, "files": _digests(folder)}
    write_json(folder / NAME, {**content, "seal": _seal(content)})


def read_manifest(folder: Path, what: str) -> dict[str, Any]:
    """Read a manifest, and check it and every file it names.

    Args:
        folder: the folder that holds `manifest.json`.
        what: what the folder is to the user ("artifact"), for the message.

    Raises:
        NotFound: no such folder, or it has no manifest.
        IntegrityError: the manifest is damaged or changed, or a file is missing, added or changed.
    """
    if not folder.is_dir():
        raise NotFound(f"{what} {folder} does not exist; check the path")
    if not (folder / NAME).is_file():
        raise NotFound(f"{folder} is no {what}: it has no {NAME}; give the folder that holds it")
    manifest = read_json(folder / NAME, what)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict):
        raise IntegrityError(f"{what} {folder} has a damaged {NAME}; make the {what} again")
    if manifest.get("seal") != _seal(manifest):
        raise IntegrityError(
            f"{what} {folder}: {NAME} was changed after it was written; "
            f"restore it or make the {what} again"
        )
    present = _digests(folder)
    for name in sorted(files.keys() | present.keys()):
        if name not in present:
            raise IntegrityError(f"{what} {folder} lacks its file {name}; make the {what} again")
        if name not in files:
            raise IntegrityError(
                f"{what} {folder} has a file {name} that its manifest does not name; remove it"
            )
        if files[name] != present[name]:
            raise IntegrityError(
                f"{what} {folder}: {name} was changed after it was written "
                f"(SHA-256 differs); restore it or make the {what} again"
            )
    return dict(manifest)


def _seal(manifest: Mapping[str, Any]) -> str:
    return sha256_json({key: value for key, value in manifest.items() if key != "seal"})


def _digests(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): sha256_file(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / NAME and not file.name.startswith(".")
    }
