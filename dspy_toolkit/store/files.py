"""Atomic files and folders: a reader sees the old content or the new, never a half.

Everything the toolkit writes goes through here. A write goes to a temporary name on the same
file system, is flushed to disk, and is renamed into place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import threading
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound, StorageError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_umask_lock = threading.Lock()


@contextlib.contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write `target` into one-line `StorageError`s."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise StorageError(
                f"no disk space left to write {target}; free some space or set DSPY_TK_HOME "
                "to a folder on another disk, then run the command again"
            ) from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise StorageError(
                f"{target} cannot be written ({error.strerror}); "
                "choose a folder you may write to, for example with DSPY_TK_HOME"
            ) from error
        raise StorageError(
            f"{target} cannot be written ({error.strerror or error}); "
            "choose another place, for example with DSPY_TK_HOME"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically and durably, creating its folder.

    Raises:
        StorageError: the disk is full or the place is not writable. What was there stays.
    """
    with written(path) as file:
        file.write(content)


@contextlib.contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Write a file piece by piece; it appears whole when the block succeeds, or not at all.

    Raises:
        StorageError: as `write_bytes`, for any `OSError` of the block.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(_mode_of(path))
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically; see `write_bytes`."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON with a final newline atomically; see `write_bytes`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_text(path: Path, what: str) -> str:
    """Read a UTF-8 file the user named.

    Args:
        path: the file.
        what: what it is to the user ("task file"), for the message.

    Raises:
        NotFound: it does not exist. InvalidInput: it is a folder, not readable, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"{what} {path} does not exist; check the path") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{what} {path} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise InvalidInput(f"{what} {path} cannot be read: {error.strerror or error}") from None


def parse_json(text: str, where: str) -> Any:
    """Read JSON that came from outside.

    Args:
        where: what the text is and where it stands ("train.jsonl:3"), for the message.

    Raises:
        InvalidInput: it is not JSON, nested too deeply, or holds a number too long to read.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"{where} is not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from None
    except RecursionError:
        raise InvalidInput(f"{where} is nested too deeply; flatten it") from None
    except ValueError:
        raise InvalidInput(f"{where} holds a number of too many digits; shorten it") from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Read TOML that came from outside.

    Args:
        where: what the text is and where it stands ("task mine/task.toml"), for the message.

    Raises:
        InvalidInput: it is not TOML; names the line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = str(error)
        if problem.endswith("(at end of document)"):
            problem = f"what begins on line {_unfinished_line(text)} does not end"
        raise InvalidInput(f"{where} is not valid TOML: {problem}") from None


def _unfinished_line(text: str) -> int:
    """The line after all that can be read by itself."""
    lines = text.splitlines()
    for count in range(len(lines) - 1, 0, -1):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            tomllib.loads("\n".join(lines[:count]))
            return count + 1
    return 1


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file the toolkit wrote.

    Raises:
        NotFound: it does not exist. IntegrityError: it is not valid JSON.
    """
    text = read_text(path, what)
    try:
        return parse_json(text, f"{what} {path}")
    except InvalidInput as error:
        raise IntegrityError(f"{error}; it is damaged: make it again") from None


def refuse_existing(path: Path) -> None:
    """Make sure that nothing the user has is overwritten.

    Raises:
        InvalidInput: there is something at `path`.
    """
    if path.exists() or path.is_symlink():
        raise InvalidInput(f"{path} already exists; choose another place or remove it first")


def copy_files(names: Iterable[str], source: Path, target: Path) -> None:
    """Copy files, named relative to `source`, to the same places under `target`.

    Raises:
        StorageError: one cannot be copied.
    """
    for name in names:
        with storage_errors(target / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)


def copy_tree(source: Path, target: Path) -> None:
    """Copy what lies in a folder, but for hidden files, into a folder that may exist.

    Links are followed: the copy holds what they lead to.

    Raises:
        StorageError: one cannot be copied; the first ends it.
    """

    def copied(file: str, to: str) -> None:
        # As no OSError, of which shutil would make a list, one for every file.
        with storage_errors(Path(to)):
            shutil.copy2(file, to)

    hidden = shutil.ignore_patterns(".*")
    with storage_errors(target):
        shutil.copytree(source, target, ignore=hidden, copy_function=copied, dirs_exist_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Build a folder beside its final place and rename it in when the block succeeds.

    Yields:
        A temporary folder to fill. If the block raises, it is deleted and `path` never appears.

    Raises:
        InvalidInput: `path` already exists. StorageError: it cannot be written.
    """
    refuse_existing(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        settle(temporary, path)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A hidden folder for the block, for what gets its name only when it is done; see `settle`.

    Raises:
        StorageError: it cannot be made.
    """
    with storage_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def settle(folder: Path, target: Path) -> None:
    """Give a finished folder its name on the same file system: durably, and at once.

    Raises:
        InvalidInput: `target` already exists. StorageError: it cannot be written.
    """
    refuse_existing(target)
    with storage_errors(target):
        for file in folder.rglob("*"):
            if file.is_file():
                _sync_file(file)
        folder.chmod(0o777 & ~_umask())
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
        _sync_folder(target.parent)


def sha256_bytes(content: bytes) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(content: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form: sorted keys, no spaces, UTF-8."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256_bytes(text.encode())


def _mode_of(path: Path) -> int:
    """The permissions a file gets: those it has, or what the user's umask leaves."""
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask()


def _umask() -> int:
    # The system tells the mask only in exchange for another one.
    with _umask_lock:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    # A rename is durable only once its folder is on disk.
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
