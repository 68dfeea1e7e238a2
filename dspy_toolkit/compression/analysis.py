"""What a model is made of, where it can be cut, and what each technique could give."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.events import PhaseAdvanced, PhaseStarted, emit

_TOKENS = 256
_TIMED = 5
_TRIALS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("rtn", {"bits": 8}),
    ("rtn", {"bits": 4}),
    ("awq", {"bits": 4}),
    ("smoothquant", {"bits": 4}),
    ("gptq", {"bits": 4}),
    ("dwq", {"bits": 4}),
    ("mixed", {}),
    ("prune", {"structure": "layers", "target": 0.1}),
    ("prune", {"structure": "ffn", "target": 0.1}),
    ("prune", {"structure": "heads", "target": 0.05}),
    ("prune", {"structure": "width", "target": 0.25}),
    ("prune", {"structure": "unstructured", "target": 0.8}),
    ("factorize", {"energy": 0.99}),
)


def analyse(
    model: str,
    task: Path | None = None,
    calibration: str | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Look at a model and measure its parts.

    Args:
        model: reference.
        task: a task folder or an artifact; sensitivities are measured on its prompts.
        calibration: a file, a kept set, or "samples", instead. With neither, sensitivities are
            left out.
        settings: device and number type.

    Returns:
        As JSON values: `layers` with parameters, bytes, seconds and `kl` at 4 bits of each part,
        `techniques` with the size each would give or why it cannot, and `cuts` that load.

    Raises:
        NotFound, EngineError, InvalidInput: with what to do.
    """
    chosen = settings or load_settings()
    preload_blas(chosen.blas)
    import mlx.core as mx

    from dspy_toolkit.compression.calibration_sources import calibration_from
    from dspy_toolkit.compression.layout import FAMILIES
    from dspy_toolkit.compression.opened import open_subject, working_device
    from dspy_toolkit.compression.subject import look_at

    subject = look_at(model, chosen)
    wanted = task is not None or calibration is not None
    data = calibration_from(calibration, task, subject, chosen) if wanted else None
    device = working_device(chosen)
    with mx.stream(device.kind):
        opened = open_subject(subject, device)
        layers = _parts(subject, opened)
        if data is not None and not subject.quantized:
            _add_sensitivities(layers, subject, opened, data)
    return {
        "model": model,
        "folder": str(subject.folder),
        "architecture": subject.family,
        "parameters": subject.parameters,
        "bytes": subject.nbytes,
        "dtype": subject.dtype,
        "device": device.name,
        "calibration": None if data is None else {"digest": data.digest, "source": data.source},
        "layers": layers,
        "cuts": list(FAMILIES.get(subject.family, ())),
        "techniques": [_possible(subject, name, options) for name, options in _TRIALS],
    }


def _parts(subject: Any, opened: Any) -> list[dict[str, Any]]:
    """Embedding, blocks and head with sizes and times, in the order they run."""
    import mlx.core as mx

    model = opened.model
    width = int(subject.config.get("hidden_size") or 0)
    parts: list[dict[str, Any]] = []
    names = _grouped(subject)
    for part, members in names.items():
        entry: dict[str, Any] = {
            "part": part,
            "parameters": sum(subject.tensors[name].size for name in members),
            "bytes": sum(subject.tensors[name].nbytes for name in members),
            "seconds": None,
        }
        if part.startswith("block ") and width:
            block = model.layers[int(part.split()[1])]
            x = mx.random.normal((1, _TOKENS, width), key=mx.random.key(0))
            entry["seconds"] = _seconds(lambda block=block, x=x: block(x, "causal", None))
        parts.append(entry)
    vocabulary = int(subject.config.get("vocab_size") or 256)
    tokens = (mx.arange(_TOKENS) * 7919 % vocabulary)[None]
    whole = _seconds(lambda: model(tokens)) or 0.0
    known = sum(entry["seconds"] or 0.0 for entry in parts)
    parts[0]["seconds"] = round(max(0.0, whole - known), 6)
    return parts


def _grouped(subject: Any) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {"embedding and head": []}
    for name in subject.tensors:
        _, found, rest = name.partition("layers.")
        number = rest.partition(".")[0]
        part = f"block {number}" if found and number.isdecimal() else "embedding and head"
        groups.setdefault(part, []).append(name)
    ordered = sorted(groups, key=lambda part: (part != "embedding and head", _number(part)))
    return {part: groups[part] for part in ordered}


def _number(part: str) -> int:
    return int(part.split()[1]) if part.startswith("block ") else -1


def _seconds(run: Any) -> float | None:
    import mlx.core as mx

    times = []
    try:
        for _ in range(_TIMED + 1):
            began = time.perf_counter()
            mx.eval(run())
            times.append(time.perf_counter() - began)
    # A block of another architecture may want other arguments; then its time is not told.
    except (TypeError, ValueError, AttributeError):
        return None
    # Whatever else runs only adds to a time.
    return round(min(times[1:]), 6)


def _add_sensitivities(layers: list[dict[str, Any]], subject: Any, opened: Any, data: Any) -> None:
    """KL to the original with one part at a time rounded to 4 bits."""
    from dspy_toolkit.compression.divergence import Reference
    from dspy_toolkit.compression.mixed import SENSITIVITY_ROWS, rounded
    from dspy_toolkit.compression.packing import Packing, plain_modules

    model = opened.model
    packing = Packing(4, 32)
    reference = Reference(
        model, data.held[:SENSITIVITY_ROWS], int(subject.config.get("vocab_size") or 256)
    )
    modules = plain_modules(model)
    emit(PhaseStarted("analyse", "sensitivity", len(layers)))
    for done, entry in enumerate(layers, start=1):
        number = _number(entry["part"])
        mine = {
            path: module
            for path, module in modules.items()
            if (f"layers.{number}." in path if number >= 0 else "layers." not in path)
            and packing.fits(tuple(module.weight.shape))
        }
        plain = {path: module.weight for path, module in mine.items()}
        for path, module in mine.items():
            module.weight = rounded(plain[path], packing)
        entry["kl"] = round(reference.compare_kl(model), 6)
        for path, module in mine.items():
            module.weight = plain[path]
        emit(PhaseAdvanced("analyse", "sensitivity", done, None))


def _possible(subject: Any, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from dspy_toolkit.compression.techniques import technique
    from dspy_toolkit.training.tables import read_table

    way = technique(name)
    record = read_table(way.kind, options, f"options of {name}", Path.cwd())
    told: dict[str, Any] = {"technique": name, "setting": way.label(record), "refused": None}
    try:
        way.refuse(subject, record)
        estimate = way.estimate(subject, record)
    except InvalidInput as error:
        return {**told, "refused": str(error)}
    return {
        **told,
        "parameters": estimate.parameters,
        "bytes": estimate.disk_bytes,
        "memory_bytes": estimate.memory_bytes,
        "sure": estimate.sure,
        "needs_data": way.needs_data(record),
    }
