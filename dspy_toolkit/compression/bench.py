"""Measuring models beside each other: speed, memory, size, and time to load."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.blas import preload_blas
from dspy_toolkit.errors import EngineError, InvalidInput
from dspy_toolkit.events import PhaseAdvanced, PhaseStarted, emit
from dspy_toolkit.store.files import read_json

if TYPE_CHECKING:
    from dspy_toolkit.compression.opened import Opened
    from dspy_toolkit.compression.subject import Subject
    from dspy_toolkit.engine.device import Device

ROWS = (1, 8, 32)
CPU_NOTE = (
    "packed weights are expanded on this CPU, so their speed here says nothing about Metal or CUDA"
)
Round = tuple[float, float, int]
"""Seconds of reading and of writing, and the peak of memory in bytes."""


@dataclass(frozen=True)
class BenchOptions:
    """How models are measured.

    Attributes:
        rows: prompts at once, one measurement for each.
        prompt: tokens of a prompt.
        new: tokens written for each.
        rounds: how often each measurement is repeated, models taking turns.
    """

    rows: tuple[int, ...] = ROWS
    prompt: int = 256
    new: int = 32
    rounds: int = 3


def bench(
    models: Sequence[str], options: BenchOptions | None = None, settings: Settings | None = None
) -> dict[str, Any]:
    """Measure models in turn, round after round, so that all meet the same load of the machine.

    Args:
        models: references; all are in memory at once.
        options: how.
        settings: device and number type.

    Returns:
        A report as JSON values: machine, device, and for each model medians with the least and
        the largest value of the rounds.

    Raises:
        NotFound, EngineError: a model cannot be loaded.
    """
    chosen, how = settings or load_settings(), options or BenchOptions()
    preload_blas(chosen.blas)
    import mlx.core as mx

    from dspy_toolkit.compression.opened import working_device
    from dspy_toolkit.compression.subject import look_at

    subjects = [look_at(model, chosen) for model in models]
    device = working_device(chosen)
    _require_memory(subjects, device)
    with mx.stream(device.kind):
        opened, facts = _opened(subjects, device)
        seen = _measured(opened, how)
    for number, fact in enumerate(facts):
        fact["speeds"] = [_speeds(how, rows, seen[number, rows]) for rows in how.rows]
    slow = device.slow_quantized and any(fact["packed"] for fact in facts)
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "device": device.name,
        "dtype": device.dtype or "weights",
        "prompt_tokens": how.prompt,
        "new_tokens": how.new,
        "rounds": how.rounds,
        "note": CPU_NOTE if slow else None,
        "models": facts,
    }


def _require_memory(subjects: Sequence[Subject], device: Device) -> None:
    need = sum(4 * s.parameters if device.slow_quantized else s.nbytes for s in subjects)
    if need > device.memory_bytes:
        raise EngineError(
            f"{len(subjects)} models at once need {need / 1e9:.1f} GB and {device.name} offers "
            f"{device.memory_bytes / 1e9:.1f} GB; measure fewer, and compare with --against"
        )


def _opened(
    subjects: Sequence[Subject], device: Device
) -> tuple[list[Opened], list[dict[str, Any]]]:
    """The models in memory, and what loading them took."""
    import mlx.core as mx

    from dspy_toolkit.compression.opened import nbytes, open_subject

    opened, facts = [], []
    for subject in subjects:
        before, began = mx.get_active_memory(), time.perf_counter()
        opened.append(open_subject(subject, device))
        facts.append(
            {
                "model": subject.reference,
                "digest": subject.digest,
                "parameters": subject.parameters,
                "size_bytes": subject.nbytes,
                "load_s": round(time.perf_counter() - began, 4),
                "weight_bytes": nbytes(opened[-1].model),
                "active_bytes": int(mx.get_active_memory() - before),
                "packed": subject.quantized,
            }
        )
    return opened, facts


def _measured(opened: Sequence[Opened], how: BenchOptions) -> dict[tuple[int, int], list[Round]]:
    """Every round of each model, by its number, with each count of rows."""
    import mlx.core as mx

    from dspy_toolkit.compression.speed import speeds

    seen: dict[tuple[int, int], list[Round]] = {}
    emit(PhaseStarted("bench", "measure", how.rounds))
    for round_ in range(how.rounds + 1):
        for number, each in enumerate(opened):
            vocabulary = int(each.config.get("vocab_size") or 256)
            for rows in how.rows:
                mx.reset_peak_memory()
                read, wrote = speeds(each.model, rows, how.prompt, how.new, vocabulary)
                # The first round only warms up.
                if round_:
                    found = (read, wrote, int(mx.get_peak_memory()))
                    seen.setdefault((number, rows), []).append(found)
        if round_:
            emit(PhaseAdvanced("bench", "measure", round_, None))
    return seen


def compared(report: Mapping[str, Any], earlier: Path) -> dict[str, Any]:
    """A report with the models of an earlier one beside its own.

    Raises:
        InvalidInput: the earlier one was measured on another device or otherwise.
    """
    other = read_json(earlier, "report")
    for key in ("machine", "device", "dtype", "prompt_tokens", "new_tokens"):
        if not isinstance(other, dict) or other.get(key) != report[key]:
            raise InvalidInput(
                f"{earlier} was measured with another {key.replace('_', ' ')} "
                f"({other.get(key) if isinstance(other, dict) else 'none'}, here {report[key]}); "
                "speeds on different devices cannot be ranked: measure both on one"
            )
    return {**report, "models": [*report["models"], *other["models"]]}


def _speeds(how: BenchOptions, rows: int, seen: Sequence[Round]) -> dict[str, Any]:
    reading = [rows * how.prompt / read for read, _, _ in seen]
    writing = [rows * (how.new - 1) / wrote for _, wrote, _ in seen]
    return {
        "rows": rows,
        "prefill_tokens_per_s": _spread(reading),
        "decode_tokens_per_s": _spread(writing),
        "first_token_s": _spread([read for read, _, _ in seen]),
        "peak_bytes": max(peak for _, _, peak in seen),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }
