"""What a model is, in twelve characters: DSPy's cache is keyed by the model string.

Two engines with the same string would be given each other's answers, so it must change whenever
an answer may: with weights, adapter, template, tokenizer, number type or generation settings.
Weights are hashed whole. Hashing samples of them would miss a fine-tune of a single layer;
hashing gigabytes on every start would cost seconds, so a file's hash is kept in the toolkit's
home beside the size, time, and inode it was taken at.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from dspy_toolkit.engine.options import EngineOptions
from dspy_toolkit.engine.source import weight_files
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.store.files import (
    read_json,
    sha256_bytes,
    sha256_file,
    sha256_json,
    write_json,
)

_SMALL = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
# A file written again within the clock's grain keeps its time; younger ones are not remembered.
_SETTLED_NS = 2_000_000_000


def model_digest(folder: Path, adapter: Path | None, home: Path) -> str:
    """Hex SHA-256 over a model's files: weights, configuration, tokenizer, template, adapter.

    Args:
        folder: holds the model.
        adapter: folder of an adapter, or None.
        home: the toolkit's home; hashes of large files are kept below it.

    Raises:
        ModelBroken: weights are missing or cut short.
    """
    return sha256_json(
        {
            "weights": {file.name: _large(file, home) for file in weight_files(folder)},
            "files": _small(folder),
            "adapter": None if adapter is None else _adapter(adapter, home),
        }
    )


def answer_digest(model: str, dtype: str | None, options: EngineOptions) -> str:
    """Hex SHA-256 over a model's digest and what else decides its answers."""
    return sha256_json({"model": model, "dtype": dtype, "generation": options.generation})


def _adapter(folder: Path, home: Path) -> dict[str, Any]:
    weights = {file.name: _large(file, home) for file in sorted(folder.glob("*.safetensors"))}
    return {"weights": weights, "files": _small(folder)}


def _small(folder: Path) -> dict[str, str]:
    files = {file for pattern in _SMALL for file in folder.glob(pattern) if file.is_file()}
    # A manifest vouches for files; it is none that the model reads.
    return {file.name: sha256_file(file) for file in sorted(files) if file.name != "manifest.json"}


def _large(file: Path, home: Path) -> str:
    status = file.stat()
    now = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
    place = home / "digests" / f"{sha256_bytes(str(file.absolute()).encode())}.json"
    known = _remembered(place)
    if {key: known.get(key) for key in now} == now:
        return str(known["sha256"])
    digest = sha256_file(file)
    if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
        try:
            write_json(place, {**now, "sha256": digest, "path": str(file)})
        except ToolkitError:
            # A home that cannot be written costs a second next time, not the run.
            pass
    return digest


def _remembered(place: Path) -> dict[str, Any]:
    try:
        known = read_json(place, "digest")
    except (ToolkitError, json.JSONDecodeError):
        return {}
    return known if isinstance(known, dict) and isinstance(known.get("sha256"), str) else {}
