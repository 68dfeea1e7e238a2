"""Checkpoints: folders that appear whole or not at all, and are verified when read."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.engine.source import ModelBroken, read_header
from dspy_toolkit.errors import IntegrityError, NotFound, StorageError
from dspy_toolkit.events import CheckpointDamaged, CheckpointSaved, emit
from dspy_toolkit.store.files import new_folder, read_json, storage_errors, write_json
from dspy_toolkit.store.manifest import read_manifest, write_manifest

_NAME = re.compile(r"step-(\d{8})")
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
# Headers, the manifest and the file system's own blocks.
_MARGIN_BYTES = 1 << 20

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A sound checkpoint on disk.

    Attributes:
        step: after which it was made.
        loss: validation loss at that step, where there was an evaluation.
        folder: where it lies.
    """

    step: int
    loss: float | None
    folder: Path


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds.

    Attributes:
        weights: trained arrays by path in the model.
        optimizer: arrays by path in the optimizer's state.
        state: JSON values: whatever else a resumed run must know.
    """

    weights: Arrays
    optimizer: Arrays
    state: Mapping[str, Any]


def free_bytes(folder: Path) -> int:
    """Space left on a folder's disk."""
    return shutil.disk_usage(folder).free


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: id of the run, for events.
        folder: where they lie. Only one process may use it at a time.
        keep_last: newest ones that stay.
        keep_best: ones of lowest validation loss that stay besides.
        free: space left on a folder's disk.
    """

    def __init__(
        self,
        run: str,
        folder: Path,
        keep_last: int,
        keep_best: int,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._run = run
        self._folder = folder
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._free = free
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()
        self._known = self._verify_all()

    @property
    def newest(self) -> Checkpoint | None:
        """The latest sound one."""
        return self._known[-1] if self._known else None

    @property
    def best(self) -> Checkpoint | None:
        """The one of lowest validation loss, the earlier where two are equal."""
        scored = self._by_loss()
        return scored[0] if scored else None

    @property
    def all(self) -> tuple[Checkpoint, ...]:
        """Every sound one, oldest first."""
        return tuple(self._known)

    def save(self, step: int, loss: float | None, snapshot: Snapshot) -> Checkpoint:
        """Write a checkpoint, then remove those that need not stay.

        Raises:
            StorageError: there is too little space, or the disk refuses. Nothing is removed.
        """
        path = self._folder / f"step-{step:08d}"
        if self.newest is not None and self.newest.step == step:
            return self.newest
        began = time.perf_counter()
        size = sum(
            each.nbytes for each in (*_values(snapshot.weights), *_values(snapshot.optimizer))
        )
        self._require_space(size)
        with new_folder(path) as folder:
            save_arrays(folder / _WEIGHTS, snapshot.weights)
            save_arrays(folder / _OPTIMIZER, snapshot.optimizer)
            write_json(folder / _STATE, dict(snapshot.state))
            write_manifest(folder, {"kind": "checkpoint", "step": step, "loss": loss})
        saved = Checkpoint(step, loss, path)
        self._known.append(saved)
        emit(CheckpointSaved(self._run, step, str(path), size, time.perf_counter() - began))
        self._prune()
        return saved

    def load(self, checkpoint: Checkpoint) -> Snapshot:
        """Read a checkpoint that was verified when this object was made, or that it saved."""
        return Snapshot(
            weights=load_arrays(checkpoint.folder / _WEIGHTS),
            optimizer=load_arrays(checkpoint.folder / _OPTIMIZER),
            state=read_json(checkpoint.folder / _STATE, "checkpoint state"),
        )

    def _require_space(self, size: int) -> None:
        free = self._free(self._folder)
        if free < size + _MARGIN_BYTES:
            raise StorageError(
                f"a checkpoint needs {(size + _MARGIN_BYTES) / 1e6:.0f} MB and "
                f"{self._folder} has {free / 1e6:.0f} MB left; free some space"
            )

    def _verify_all(self) -> list[Checkpoint]:
        found = []
        for path in sorted(self._folder.iterdir()):
            name = _NAME.fullmatch(path.name)
            if name is None or not path.is_dir():
                continue
            try:
                manifest = read_manifest(path, "checkpoint")
                loss = manifest.get("loss")
                if manifest.get("kind") != "checkpoint" or manifest.get("step") != int(name[1]):
                    raise IntegrityError(f"checkpoint {path} belongs to another place")
            except (IntegrityError, NotFound) as error:
                self._set_aside(path, str(error))
                continue
            found.append(Checkpoint(int(name[1]), loss, path))
        return found

    def _set_aside(self, path: Path, reason: str) -> None:
        emit(CheckpointDamaged(self._run, str(path), reason))
        number = 0
        while (aside := path.with_name(f"damaged-{number}-{path.name}")).exists():
            number += 1
        with storage_errors(path):
            path.rename(aside)

    def _by_loss(self) -> list[Checkpoint]:
        scored = [each for each in self._known if each.loss is not None]
        return sorted(scored, key=lambda each: (each.loss or 0.0, each.step))

    def _prune(self) -> None:
        kept = {*self._known[-self._keep_last :], *self._by_loss()[: self._keep_best]}
        for checkpoint in [each for each in self._known if each not in kept]:
            # Renamed first: a kill while files are removed leaves no half checkpoint behind.
            dying = self._folder / f".dying-{checkpoint.folder.name}"
            with storage_errors(checkpoint.folder):
                checkpoint.folder.rename(dying)
            self._known.remove(checkpoint)
            shutil.rmtree(dying, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for pattern in (".step-*.tmp", ".dying-*"):
            for path in self._folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write a safetensors file and make sure that all of it is there.

    Raises:
        StorageError: the disk refused, or took only a part.
    """
    import mlx.core as mx

    try:
        with storage_errors(path):
            mx.save_safetensors(str(path), dict(arrays), metadata={"format": "mlx"})
        read_header(path)
    except (RuntimeError, ModelBroken) as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise StorageError(
            f"{path} cannot be written whole ({' '.join(str(error).split())[:120]}); "
            "free some space"
        ) from None


def load_arrays(path: Path) -> dict[str, Any]:
    """Read a safetensors file that was verified."""
    import mlx.core as mx

    arrays: Any = mx.load(str(path))
    mx.eval(arrays)
    return dict(arrays)


def _values(arrays: Arrays) -> list[Any]:
    return list(arrays.values())
