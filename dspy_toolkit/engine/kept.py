"""Stored prefixes on disk, so that a model that is opened again need not read them again.

A folder holds one safetensors file a stretch and `index.json`, which names them with their tokens
and their SHA-256 and is written last. What does not check out is passed over: it can be read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from dspy_toolkit.engine.prefix_tree import PrefixTree
from dspy_toolkit.engine.stretches import Stretch, split_stretch, stretch_bytes
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.store.files import read_json, sha256_file, sha256_json, write_json, written

_INDEX = "index.json"


@dataclass(frozen=True)
class KeptPrefixes:
    """Where the prefixes of one model are kept.

    Attributes:
        folder: of this model alone; made when there is something to keep.
        identity: of the model's files and number type; prefixes of another one are passed over.
        budget_bytes: most that is kept, least recently used first to go.
    """

    folder: Path
    identity: str
    budget_bytes: int

    def save(self, tree: PrefixTree[Stretch]) -> None:
        """Write what was used last, and drop the files of what is not kept any more.

        Raises:
            StorageError: the disk is full or the place is not writable.
        """
        entries: list[dict[str, Any]] = []
        left = self.budget_bytes
        for tokens, begin, stretch in tree.latest():
            left -= stretch_bytes(stretch)
            if left < 0:
                break
            entries.append(self._write(tokens, begin, stretch))
        if entries or self.folder.exists():
            write_json(
                self.folder / _INDEX,
                {"model": self.identity, "stretches": entries, "seal": sha256_json(entries)},
            )
        known = {entry["file"] for entry in entries}
        for path in self.folder.glob("*.safetensors"):
            if path.name not in known:
                path.unlink(missing_ok=True)

    def load(self, tree: PrefixTree[Stretch]) -> int:
        """Store what is kept and whole; returns how many tokens."""
        count = 0
        for entry in self._entries():
            tokens, begin = entry["tokens"], entry["begin"]
            if tree.match(tokens[:begin]).length < begin:
                continue
            stretch = self._read(entry)
            if stretch is None:
                continue
            tree.insert(tokens, partial(_from, stretch, begin))
            count += len(tokens) - begin
        return count

    def _entries(self) -> Iterator[dict[str, Any]]:
        try:
            index = read_json(self.folder / _INDEX, "prefix folder")
        except ToolkitError:
            return
        if not isinstance(index, dict) or index.get("model") != self.identity:
            return
        if index.get("seal") == sha256_json(index.get("stretches")):
            yield from index["stretches"]

    def _write(self, tokens: list[int], begin: int, stretch: Stretch) -> dict[str, Any]:
        path = hashlib.sha256(f"{self.identity} {begin} {tokens}".encode()).hexdigest()
        file = self.folder / f"{path[:32]}.safetensors"
        if not file.exists():
            arrays: dict[str, mx.array] = {}
            for layer, (keys, values) in enumerate(stretch):
                arrays |= {f"{layer}.keys": keys, f"{layer}.values": values}
            with written(file) as target:
                mx.save_safetensors(target, arrays)
        return {"file": file.name, "sha256": sha256_file(file), "begin": begin, "tokens": tokens}

    def _read(self, entry: dict[str, Any]) -> Stretch | None:
        file = self.folder / entry["file"]
        if not file.is_file() or sha256_file(file) != entry["sha256"]:
            return None
        arrays = mx.load(str(file))
        assert isinstance(arrays, dict)
        stretch = [
            (arrays[f"{layer}.keys"], arrays[f"{layer}.values"])
            for layer in range(len(arrays) // 2)
        ]
        mx.eval(stretch)
        return stretch


def _from(stretch: Stretch, first: int, begin: int) -> Stretch:
    """What a stretch whose first token is the `first` one holds from the `begin`th token on."""
    return split_stretch(stretch, begin - first)[1] if begin > first else stretch
