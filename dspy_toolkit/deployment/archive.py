"""Bundles as one file, to carry to another machine; what comes in is unpacked with suspicion."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from dspy_toolkit.deployment.bundle import Bundle, read_bundle
from dspy_toolkit.deployment.store import CANDIDATE, Deployments
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.store.files import (
    refuse_existing,
    scratch_folder,
    settle,
    storage_errors,
    written,
)

GIB = 2**30
MOST_BYTES = 64 * GIB
MOST_FILES = 1000
_BLOCK = 2**20
_ENDINGS = (".tar.gz", ".tgz")
_LONGEST_NAME = 500


def export_bundle(bundle: Bundle, target: Path) -> Path:
    """Write a bundle as a `.tar.gz`; the same bundle gives the same bytes inside.

    Args:
        target: the file, where it ends in .tar.gz or .tgz; else a folder, made where it is
            missing, in which the file is called NAME-VERSION.tar.gz.

    Raises:
        InvalidInput: the file exists. StorageError: it cannot be written.
    """
    named = target.name.endswith(_ENDINGS) and not target.is_dir()
    file = target if named else target / f"{bundle.name}-{bundle.version}.tar.gz"
    if not named and target.exists() and not target.is_dir():
        raise InvalidInput(f"{target} is a file; give a folder, or a name that ends in .tar.gz")
    refuse_existing(file)
    with written(file) as out, tarfile.open(fileobj=out, mode="w:gz", compresslevel=6) as archive:
        for path in sorted(bundle.folder.rglob("*")):
            if not path.is_file() or path.name.startswith("."):
                continue
            entry = tarfile.TarInfo(path.relative_to(bundle.folder).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                archive.addfile(entry, content)
    return file


def import_bundle(
    file: Path,
    deployments: Deployments,
    name: str | None = None,
    most_bytes: int = MOST_BYTES,
) -> Bundle:
    """Unpack a bundle that someone else made, check it, and make it a deployment's candidate.

    Nothing outside a new folder is written, whatever the file holds, and no code in it is run.
    It keeps the version it had.

    Args:
        name: the deployment it goes to; the one it came from when left out.
        most_bytes: of all files together, unpacked.

    Raises:
        NotFound: no such file. InvalidInput: it is no bundle, or holds what none does.
        IntegrityError: a file in it is damaged or was changed.
    """
    if not file.is_file():
        raise NotFound(f"{file} does not exist; give a file that `deploy export` made")
    with scratch_folder(deployments.folder) as scratch:
        _unpack(file, scratch / "bundle", most_bytes)
        bundle = read_bundle(scratch / "bundle")
        deployment = deployments.named(name or bundle.name)
        with deployment.changing():
            if bundle.version in deployment.versions:
                raise InvalidInput(
                    f"{deployment.name} has version {bundle.version} already; "
                    "import it under another --name, or promote the one that is there"
                )
            settle(scratch / "bundle", deployment.place(bundle.version))
            told = f"imported from {file.name}"
            deployment.write_aliases(
                deployment.aliases().moved(CANDIDATE, bundle.version, "import", told)
            )
    return deployment.bundle(bundle.version)


def _unpack(file: Path, place: Path, most_bytes: int) -> None:
    left, count = most_bytes, 0
    try:
        # As a stream: names are judged before anything is written, and sizes as bytes arrive.
        with file.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|gz") as archive:
            for entry in archive:
                count += 1
                if count > MOST_FILES:
                    raise InvalidInput(f"{file} holds over {MOST_FILES} files; it is no bundle")
                if entry.isdir():
                    continue
                target = place / _safe_name(entry, file)
                content = archive.extractfile(entry)
                left = _write(content or io.BytesIO(), target, left, file, most_bytes)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            with storage_errors(place):
                raise
        raise InvalidInput(f"{file} is no archive that `deploy export` made: {error}") from None


def _safe_name(entry: tarfile.TarInfo, file: Path) -> PurePosixPath:
    name = PurePosixPath(entry.name)
    odd = (
        name.is_absolute()
        or not name.parts
        or any(part in ("..", "") or part.startswith(".") for part in name.parts)
        or "\\" in entry.name
        or ":" in entry.name
        or len(entry.name) > _LONGEST_NAME
    )
    if odd or not entry.isreg():
        kind = "a name that leads elsewhere" if odd else "a link or a device"
        raise InvalidInput(f"{file} holds {kind} ({entry.name[:80]!r}); it is no bundle")
    return name


def _write(content: IO[bytes], target: Path, left: int, file: Path, most_bytes: int) -> int:
    # What is unpacked is made durable when it gets its name.
    target.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(target), target.open("xb") as out:
        while block := content.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise InvalidInput(
                    f"{file} unpacks to more than {most_bytes / GIB:.3g} GiB; it is no bundle, or "
                    "allow it with --most-gib"
                )
            out.write(block)
    return left
