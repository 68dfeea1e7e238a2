"""Making a model by a technique: estimated first, kept by content, written whole or not at all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dspy_toolkit.compression.by_name import is_stack, pack_files
from dspy_toolkit.compression.calibration import CalibrationSet, tokenizer_digest
from dspy_toolkit.compression.divergence import Reference
from dspy_toolkit.compression.opened import (
    Opened,
    cast,
    nbytes,
    open_folder,
    open_subject,
    parameters,
    working_device,
    write_model,
)
from dspy_toolkit.compression.packing import packed_modules
from dspy_toolkit.compression.subject import Subject, look_at
from dspy_toolkit.compression.technique import Estimate, Made, Technique, Work
from dspy_toolkit.compression.techniques import technique
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.device import Device
from dspy_toolkit.engine.source import weight_files
from dspy_toolkit.errors import EngineError, IntegrityError, InvalidInput, StorageError
from dspy_toolkit.events import ModelCompressed, PhaseStarted, emit
from dspy_toolkit.store.files import (
    copy_files,
    new_folder,
    refuse_existing,
    sha256_json,
    storage_errors,
)
from dspy_toolkit.store.lock import working_in
from dspy_toolkit.store.manifest import read_manifest, write_manifest
from dspy_toolkit.training.attention import in_blocks
from dspy_toolkit.training.checkpoints import load_arrays
from dspy_toolkit.training.tables import read_table

_SPARE_BYTES = 1 << 22
_TOLERANCE = {"float32": 2e-4, "float16": 2e-2, "bfloat16": 1e-1}
_PROBE_TOKENS = 24


@dataclass(frozen=True)
class Built:
    """A compressed model on disk.

    Attributes:
        folder: a model folder, which every command takes as a model.
        manifest: parent, recipe, calibration and measures.
        fresh: whether it was made now, not found.
    """

    folder: Path
    manifest: Mapping[str, Any]
    fresh: bool

    @property
    def measures(self) -> Mapping[str, Any]:
        """What was measured when it was made."""
        measures: Mapping[str, Any] = self.manifest["measures"]
        return measures


@dataclass(frozen=True)
class Order:
    """What is to be built, checked and estimated, with its content address.

    Attributes:
        key: hex SHA-256 of parent, technique, options and calibration.
        folder: where the result lies, or will.
    """

    subject: Subject
    technique: Technique
    options: Any
    calibration: CalibrationSet | None
    estimate: Estimate
    key: str
    folder: Path

    @property
    def as_stored(self) -> bool:
        """Whether nothing is computed, so that weights stay in the type they are stored in."""
        return self.calibration is None and self.technique.as_stored

    @property
    def memory_bytes(self) -> int:
        """Most that is needed while it is made; comparing answers takes both models in float32."""
        compared = 0 if self.calibration is None else 8 * self.estimate.parameters
        return max(self.estimate.memory_bytes, compared)


def order(
    model: str,
    name: str,
    options: Mapping[str, Any],
    calibration: CalibrationSet | None = None,
    settings: Settings | None = None,
) -> Order:
    """Check what is asked for and estimate it; nothing is loaded or written.

    Args:
        model: reference of the model to start from.
        name: of the technique.
        options: its options by name.
        calibration: data, where the technique needs any; also what its error is measured on.
        settings: where results lie.

    Raises:
        NotFound, ModelBroken, IntegrityError: the model is missing or damaged.
        InvalidInput: an option is wrong, or data are needed. Unsupported: it cannot be done.
    """
    chosen = settings or load_settings()
    subject = look_at(model, chosen)
    way = technique(name)
    record = read_table(way.kind, options, f"options of {name}", Path.cwd())
    if way.needs_data(record) and calibration is None:
        raise InvalidInput(
            f"{name} needs calibration data; name a task with --task, or a file or 'samples' "
            "with --calibration"
        )
    if calibration and calibration.tokenizer != tokenizer_digest(subject.folder):
        raise InvalidInput(
            f"calibration set {calibration.digest[:12]} was made with another tokenizer than that "
            f"of {model}; make one with this model"
        )
    way.refuse(subject, record)
    recipe = {
        "parent": subject.digest,
        "technique": name,
        "version": way.version,
        "options": plain(record),
        "calibration": calibration.digest if calibration else None,
    }
    key = sha256_json(recipe)
    folder = models_folder(chosen) / f"{_stem(subject.name)}-{way.label(record)}-{key[:8]}"
    return Order(subject, way, record, calibration, way.estimate(subject, record), key, folder)


def build(wanted: Order, settings: Settings | None = None, output: Path | None = None) -> Built:
    """Make a model, or find it where it was made before.

    A kill leaves nothing half written; training that was going on is resumed by the next call.

    Args:
        wanted: from `order`.
        settings: as for `order`.
        output: a new folder to put a copy into.

    Raises:
        StorageError: too little disk. EngineError: too little memory, said before starting.
        IntegrityError: the result is not what was promised; nothing is kept.
    """
    chosen = settings or load_settings()
    if output is not None:
        refuse_existing(output.expanduser())
    scratch = models_folder(chosen) / ".work" / wanted.key[:32]
    with storage_errors(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
    with working_in(scratch, f"model {wanted.folder.name}"):
        built = _found(wanted) or _made(wanted, chosen, scratch)
        shutil.rmtree(scratch, ignore_errors=True)
    if output is not None:
        _copy(built, output.expanduser())
    return built


def models_folder(settings: Settings) -> Path:
    """Where compressed models lie."""
    return settings.home / "models"


def plain(record: Any) -> dict[str, Any]:
    """An options record as JSON values."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(record).items()
    }


def _found(wanted: Order) -> Built | None:
    if not wanted.folder.exists():
        return None
    try:
        manifest = read_manifest(wanted.folder, "model")
        if manifest.get("key") == wanted.key:
            return Built(wanted.folder, manifest, fresh=False)
    except IntegrityError:
        pass
    number = 0
    while (aside := wanted.folder.with_name(f".damaged-{number}-{wanted.folder.name}")).exists():
        number += 1
    with storage_errors(wanted.folder):
        wanted.folder.rename(aside)
    return None


def _made(wanted: Order, settings: Settings, scratch: Path) -> Built:
    device = working_device(settings)
    _require_room(wanted, device)
    began = time.perf_counter()
    emit(PhaseStarted(wanted.key[:8], wanted.technique.name, None))
    with mx.stream(device.kind):
        mx.reset_peak_memory()
        if wanted.as_stored and is_stack(wanted.subject):
            _pack_files(wanted, began)
        else:
            _make_model(wanted, settings, scratch, device, began)
    emit(ModelCompressed(str(wanted.folder), wanted.technique.name, time.perf_counter() - began))
    return Built(wanted.folder, read_manifest(wanted.folder, "model"), fresh=True)


def _pack_files(wanted: Order, began: float) -> None:
    with new_folder(wanted.folder) as folder:
        measures = pack_files(wanted.subject, wanted.options.packing, folder)
        count = wanted.subject.parameters
        _seal(wanted, folder, {**_sizes(wanted, count, measures["bytes"]), **measures}, {}, began)


def _make_model(
    wanted: Order, settings: Settings, scratch: Path, device: Device, began: float
) -> None:
    with ExitStack() as stack:
        opened = open_subject(wanted.subject, device, wanted.as_stored)
        if device.name == "cpu":
            stack.enter_context(in_blocks(opened.model))
        reference = _reference(wanted, opened)
        work = Work(
            subject=wanted.subject,
            opened=opened,
            options=wanted.options,
            calibration=wanted.calibration,
            scratch=scratch,
            run=wanted.key[:8],
            settings=settings,
            again=lambda: open_subject(wanted.subject, device),
        )
        made = wanted.technique.apply(work)
        made.model.eval()
        cast(made.model, wanted.subject.dtype)
        with new_folder(wanted.folder) as folder:
            write_model(folder, made.model, made.config, wanted.subject.folder)
            measures = _measured(work, wanted, made, folder, reference)
            _seal(wanted, folder, measures, made.facts, began)


def _seal(
    wanted: Order,
    folder: Path,
    measures: Mapping[str, Any],
    made: Mapping[str, Any],
    began: float,
) -> None:
    spent = {
        "seconds": round(time.perf_counter() - began, 3),
        "peak_bytes": int(mx.get_peak_memory()),
    }
    write_manifest(folder, _facts(wanted, {**measures, **spent}, made))


def _measured(
    work: Work, wanted: Order, made: Made, folder: Path, reference: Reference | None
) -> dict[str, Any]:
    loaded = open_folder(folder, made.config, work.opened.device, wanted.as_stored).model
    _require_same(made.model, loaded, work, folder)
    count, size = parameters(made.model), nbytes(made.model)
    if wanted.estimate.sure and count != wanted.estimate.parameters:
        raise IntegrityError(
            f"{wanted.technique.name} gave {count} parameters, {wanted.estimate.parameters} were "
            "foreseen; report this"
        )
    facts = _sizes(wanted, count, size)
    if reference is not None:
        facts.update(reference.compare(loaded).to_dict())
        facts["measuring_s"] = round(reference.seconds, 3)
    return {**facts, **wanted.technique.check(work, made, loaded)}


def _sizes(wanted: Order, count: int, size: int) -> dict[str, Any]:
    return {
        "parameters": count,
        "bytes": size,
        "bits_per_weight": round(8 * size / count, 3),
        "parent_parameters": wanted.subject.parameters,
        "parent_bytes": wanted.subject.nbytes,
    }


def _require_same(made: Any, loaded: Any, work: Work, folder: Path) -> None:
    """The folder must hold what is in memory and, loaded by stock mlx-lm, answer as that does."""
    missing = dict(tree_flatten(made.parameters()))
    for file in weight_files(folder):
        for name, stored in load_arrays(file).items():
            if name in missing and mx.array_equal(stored, missing[name]).item():
                del missing[name]
    if missing:
        raise IntegrityError(
            f"{next(iter(missing))} was not written as it is; check the disk, try again"
        )
    if packed_modules(made) and work.opened.device.slow_quantized:
        # One packed product takes longer here than all the rest; what is loaded is expanded.
        return
    subject = work.subject
    vocabulary = int(subject.config.get("vocab_size") or 256)
    tokens = (mx.arange(_PROBE_TOKENS) * 7919 % vocabulary)[None]
    before, after = made(tokens).astype(mx.float32), loaded(tokens).astype(mx.float32)
    ratio: Any = (mx.abs(before - after).max() / (1 + mx.abs(before).max())).item()
    error = float(ratio)
    if not error <= _TOLERANCE.get(subject.dtype, 1e-1):
        raise IntegrityError(
            f"{folder.name} answers otherwise once written ({error:.2g} off); report this"
        )


def _reference(wanted: Order, opened: Opened) -> Reference | None:
    if wanted.calibration is None:
        return None
    vocabulary = int(wanted.subject.config.get("vocab_size") or 256)
    return Reference(opened.model, wanted.calibration.held, vocabulary)


def _facts(wanted: Order, measures: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    calibration = wanted.calibration
    return {
        "kind": "compressed",
        "key": wanted.key,
        "parent": {
            "reference": str(wanted.subject.folder),
            "digest": wanted.subject.digest,
        },
        "recipe": {
            "technique": wanted.technique.name,
            "version": wanted.technique.version,
            "options": plain(wanted.options),
        },
        "calibration": (
            {"digest": calibration.digest, "source": calibration.source} if calibration else None
        ),
        "measures": dict(measures),
        "made": dict(made),
    }


def _require_room(wanted: Order, device: Device) -> None:
    place = wanted.folder.parent
    free = shutil.disk_usage(place).free
    need = wanted.estimate.disk_bytes + _SPARE_BYTES
    if free < need:
        raise StorageError(
            f"{wanted.technique.name} needs {need / 1e6:.0f} MB of disk and "
            f"{place} has {free / 1e6:.0f} MB left; free some space or set "
            "DSPY_TK_HOME to a folder on another disk"
        )
    if wanted.memory_bytes > device.memory_bytes:
        raise EngineError(
            f"{wanted.technique.name} on {wanted.subject.reference} needs about "
            f"{wanted.memory_bytes / 1e9:.1f} GB of memory and {device.name} offers "
            f"{device.memory_bytes / 1e9:.1f} GB; choose a smaller model, or method rtn, which "
            "needs least"
        )


def _copy(built: Built, output: Path) -> None:
    names = [*built.manifest["files"], "manifest.json"]
    with new_folder(output) as folder:
        copy_files(names, built.folder, folder)


def _stem(name: str) -> str:
    return name[:60]
