"""A run as one file, to be sent or kept."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from dspy_toolkit.compiler.runs import Run
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.store.files import sha256_file, written
from dspy_toolkit.store.history import RUNNING
from dspy_toolkit.store.manifest import NAME as MANIFEST

FORMAT = 1


def export_run(run: Run, target: Path) -> None:
    """Write a run as a zip file: its folder, under its id, and a manifest.

    `manifest.json` holds what lists show of the run and the SHA-256 of every file. Links and
    hidden files are left out, so that nothing from outside the folder gets in.

    Args:
        run: not running any more.
        target: the new file.

    Raises:
        InvalidInput: the run is still running, or `target` exists.
        NotFound: the run's folder was removed. StorageError: the file cannot be written.
    """
    if run.status == RUNNING:
        raise InvalidInput(f"run {run.row.id} is still running; export it when it has ended")
    if target.exists():
        raise InvalidInput(f"{target} already exists; choose another file or remove it first")
    if not run.folder.is_dir():
        raise NotFound(f"folder {run.folder} of the run was removed; nothing is left to export")
    files = {file.relative_to(run.folder).as_posix(): file for file in _own_files(run.folder)}
    manifest = {
        "format": FORMAT,
        "kind": "run",
        **run.facts(),
        "files": {name: sha256_file(file) for name, file in files.items()},
    }
    # Some file systems give times before 1980, which a zip cannot hold.
    with (
        written(target) as raw,
        ZipFile(raw, "w", ZIP_DEFLATED, strict_timestamps=False) as archive,
    ):
        for name, file in files.items():
            archive.write(file, f"{run.row.id}/{name}")
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        archive.writestr(ZipInfo(f"{run.row.id}/{MANIFEST}"), text + "\n", ZIP_DEFLATED)


def _own_files(folder: Path) -> list[Path]:
    root = folder.resolve()
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        # Also false for a file reached through a linked folder.
        and file.resolve() == root / file.relative_to(folder)
        and file != folder / MANIFEST
    ]
