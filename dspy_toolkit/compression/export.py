"""Models for other runtimes, each checked against the original's answers."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from dspy_toolkit.compression import llama_cpp
from dspy_toolkit.compression.gguf_file import TYPES, read_gguf, write_gguf
from dspy_toolkit.compression.opened import open_folder
from dspy_toolkit.compression.plain import (
    PlainModel,
    answers,
    copy_beside,
    plain_model,
    probes,
)
from dspy_toolkit.compression.subject import Unsupported
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import IntegrityError, InvalidInput, MissingExtra, nearest
from dspy_toolkit.store.files import new_folder, refuse_existing, storage_errors, write_json
from dspy_toolkit.training.checkpoints import save_arrays

TARGETS = ("gguf", "onnx", "safetensors")
_NEW = 8
_LARGE = 1_900_000_000
# Largest difference of a logit, by the size of the largest one.
_ALLOWED = {"onnx": 1e-3, "safetensors": 1e-3, "f32": 1e-3, "f16": 2e-2, "q8_0": 2e-1}


@dataclass(frozen=True)
class Exported:
    """A model for another runtime.

    Attributes:
        folder: holds it.
        file: the file that the runtime opens.
        format: one of `TARGETS`.
        size_bytes: of that file.
        same_answers: of the probes, how many are continued alike, `of` in all.
        largest_error: of a logit, by the size of the largest one.
        checked_with: what read it back.
        not_checked: what was not checked, and why, or None.
    """

    folder: str
    file: str
    format: str
    size_bytes: int
    same_answers: int
    of: int
    largest_error: float
    checked_with: str
    not_checked: str | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def export(
    reference: str, target: str, output: Path, settings: Settings, kind: str = "f16"
) -> Exported:
    """Write a model for another runtime into a new folder, and check that it answers alike.

    Args:
        reference: the model; packed or factorized weights are expanded.
        target: one of `TARGETS`.
        output: must not exist.
        kind: of gguf: "f32", "f16" or "q8_0".

    Raises:
        InvalidInput: there is no such target or kind. Unsupported: the architecture cannot be
            written so. MissingExtra: a library is needed. IntegrityError: the export answers
            otherwise; nothing is kept.
    """
    if target not in TARGETS:
        raise InvalidInput(f"target {target!r} does not exist; {nearest(target, TARGETS)}")
    if kind not in TYPES:
        raise InvalidInput(f"type {kind!r} does not exist; {nearest(kind, TYPES)}")
    needs = {"gguf": ("gguf",), "onnx": ("onnx", "onnxruntime"), "safetensors": ()}[target]
    for package in needs:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "export", f"export to {target}")
    place = output.expanduser()
    refuse_existing(place)
    plain = plain_model(reference, settings)
    if plain.config.get("rope_scaling") and target != "safetensors":
        raise Unsupported(
            f"model {reference} scales its positions (rope_scaling), which is not written to "
            f"{target}; use --to safetensors and the other runtime's own converter"
        )
    with mx.stream(mx.cpu), new_folder(place) as folder, storage_errors(place):
        made = {"gguf": _gguf, "onnx": _onnx, "safetensors": _safetensors}[target](
            plain, folder, kind
        )
        write_json(folder / "export.json", {**made, "model": plain.subject.digest})
    return Exported(folder=str(place), format=target, **made)


def _gguf(plain: PlainModel, folder: Path, kind: str) -> dict[str, Any]:
    file = folder / f"{plain.subject.name}-{kind}.gguf"
    write_gguf(plain, file, kind)
    back = read_gguf(file, plain)
    asked = probes(plain)
    prompts = [probe.tokens for probe in asked]
    before = answers(plain.opened.model, prompts, _NEW)
    logits = _last_logits(plain.opened.model, prompts)
    # In the original's place: two models need not fit into memory.
    again = plain.opened.model
    again.update(tree_unflatten([(name, mx.array(array)) for name, array in back.items()]))
    said, last = answers(again, prompts, _NEW), _last_logits(again, prompts)
    facts = _compared(plain, before, logits, said, last, kind)
    tool = "gguf's reader and MLX"
    left_out: str | None = f"answers under llama.cpp: {llama_cpp.PACKAGE} is not installed"
    if llama_cpp.installed():
        read = llama_cpp.readings(file, plain, asked, _NEW)
        last = np.stack([each.into(row) for each, row in zip(read, logits, strict=True)])
        facts = _compared(plain, before, logits, [each.tokens for each in read], last, kind)
        tool, left_out = llama_cpp.version(), None
    return {
        "file": file.name,
        "size_bytes": file.stat().st_size,
        **facts,
        "checked_with": tool,
        "not_checked": left_out,
    }


def _onnx(plain: PlainModel, folder: Path, kind: str) -> dict[str, Any]:
    import onnx
    import onnxruntime

    from dspy_toolkit.compression.onnx_graph import LlamaGraph

    model = LlamaGraph(plain.weights, plain.config, plain.layout).model()
    file = folder / "model.onnx"
    large = sum(array.nbytes for array in plain.weights.values()) > _LARGE
    onnx.save(model, str(file), save_as_external_data=large)
    copy_beside(plain.subject.folder, folder)
    write_json(folder / "config.json", plain.config)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    asked = [probe.tokens for probe in probes(plain)]
    said, last = _through_onnx(session, plain, asked)
    facts = _compared(
        plain,
        answers(plain.opened.model, asked, _NEW),
        _last_logits(plain.opened.model, asked),
        said,
        last,
        "onnx",
    )
    return {
        "file": file.name,
        "size_bytes": sum(f.stat().st_size for f in folder.glob("model.onnx*")),
        **facts,
        "checked_with": f"ONNX Runtime {onnxruntime.__version__} on the CPU",
        "not_checked": None,
    }


def _through_onnx(
    session: Any, plain: PlainModel, asked: list[list[int]]
) -> tuple[list[list[int]], np.ndarray]:
    """Likeliest tokens after each prompt, through the graph's cache, and logits of the first."""
    layout, said, last = plain.layout, [], []
    for prompt in asked:
        empty = np.zeros((1, layout.groups, 0, layout.head), np.float32)
        names = [f"{i}.{part}" for i in range(layout.layers) for part in ("key", "value")]
        cache = dict.fromkeys(names, empty)
        fresh, tokens = list(prompt), []
        for step in range(_NEW):
            fed = {f"past.{name}": array for name, array in cache.items()}
            logits, *grown = session.run(None, {"input_ids": np.array([fresh], np.int64), **fed})
            cache = dict(zip(names, grown, strict=True))
            if step == 0:
                last.append(logits[0, -1])
            fresh = [int(logits[0, -1].argmax())]
            tokens += fresh
        said.append(tokens)
    return said, np.stack(last)


def _safetensors(plain: PlainModel, folder: Path, kind: str) -> dict[str, Any]:
    dtype = plain.subject.dtype
    held = {
        name: mx.array(array).astype(getattr(mx, dtype)) for name, array in plain.weights.items()
    }
    file = folder / "model.safetensors"
    save_arrays(file, held)
    write_json(folder / "config.json", plain.config)
    copy_beside(plain.subject.folder, folder)
    asked = [probe.tokens for probe in probes(plain)]
    again = open_folder(folder, plain.config, plain.opened.device).model
    limit = "f16" if dtype != "float32" and (plain.config != plain.subject.config) else "f32"
    facts = _compared(
        plain,
        answers(plain.opened.model, asked, _NEW),
        _last_logits(plain.opened.model, asked),
        answers(again, asked, _NEW),
        _last_logits(again, asked),
        limit,
    )
    return {
        "file": file.name,
        "size_bytes": file.stat().st_size,
        **facts,
        "checked_with": "stock mlx-lm",
        "not_checked": None,
    }


def _last_logits(model: Any, asked: list[list[int]]) -> np.ndarray:
    return np.stack([np.array(model(mx.array([prompt]))[0, -1]) for prompt in asked])


def _compared(
    plain: PlainModel,
    before: list[list[int]],
    logits: np.ndarray,
    after: list[list[int]],
    other: np.ndarray,
    limit: str,
) -> dict[str, Any]:
    error = float(np.abs(logits - other).max() / (1 + np.abs(logits).max()))
    # One that stops at the end of its answer says less, but never nothing.
    same = sum(bool(b) and a[: len(b)] == b for a, b in zip(before, after, strict=True))
    if not error <= _ALLOWED[limit]:
        raise IntegrityError(
            f"the export of {plain.subject.reference} answers otherwise ({error:.2g} off, "
            f"{_ALLOWED[limit]:g} allowed); report this"
        )
    return {"same_answers": same, "of": len(before), "largest_error": round(error, 7)}
