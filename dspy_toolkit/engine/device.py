"""Where a model runs and in which numbers.

Measured on Linux CPU at 1024 x 1024 (GFLOP/s): float32 195 with a fast BLAS, float16 4.5,
bfloat16 5.8, quantized weights with float32 scales 2.3, with float16 scales 0.07. So a CPU gets
float32, and quantized weights are expanded to float32 where memory allows, else their scales are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import psutil

from dspy_toolkit.errors import EngineError

# Of a device's memory, for prefixes of earlier prompts where nobody says how much.
PREFIX_SHARE = 0.1


@dataclass(frozen=True)
class Device:
    """A device and how to use it.

    Attributes:
        name: "metal", "cuda" or "cpu".
        kind: MLX's own device.
        dtype: the type of weights and arithmetic, or None for that of the weights.
        memory_bytes: what models may use in all: unified memory, GPU memory, or free RAM.
    """

    name: str
    kind: Any
    dtype: str | None
    memory_bytes: int

    @property
    def slow_quantized(self) -> bool:
        """Whether quantized products are slower here than plain float32 ones."""
        return self.name == "cpu"


def choose_device(device: str, dtype: str) -> Device:
    """Pick a device and a type.

    Args:
        device: "auto" takes a GPU where there is one, "gpu" insists on it, or "cpu".
        dtype: "auto" takes float32 on a CPU and the weights' own type on a GPU, or a type.

    Raises:
        EngineError: "gpu" on a machine without one that MLX can use.
    """
    gpu = _gpu()
    if device == "gpu" and gpu is None:
        raise EngineError(
            "device 'gpu' was asked for, but MLX finds none here; use device 'auto' or 'cpu', "
            "or on Linux with an NVIDIA GPU run `pip install 'dspy-toolkit[cuda]'`"
        )
    if gpu is None or device == "cpu":
        chosen = "float32" if dtype == "auto" else dtype
        return Device("cpu", mx.cpu, chosen, int(psutil.virtual_memory().available))
    return Device(gpu, mx.gpu, None if dtype == "auto" else dtype, _gpu_memory())


def limit_memory(device: Device) -> None:
    """On Metal, stay within what the system recommends: beyond it a process is aborted."""
    if device.name == "metal":
        mx.set_memory_limit(device.memory_bytes)


def memory_held(name: str) -> tuple[int, int]:
    """Bytes that this process holds on a device or in main memory, whichever is more, and may.

    Args:
        name: of a `Device`. May be asked from any thread.
    """
    resident = int(psutil.Process().memory_info().rss)
    most = int(psutil.virtual_memory().total) if name == "cpu" else _gpu_memory()
    return max(resident, int(mx.get_active_memory() + mx.get_cache_memory())), most


def _gpu() -> str | None:
    if mx.metal.is_available():
        return "metal"
    if mx.cuda.is_available():
        return "cuda"
    return None


def _gpu_memory() -> int:
    info = mx.device_info(mx.gpu)
    for key in ("max_recommended_working_set_size", "total_memory", "memory_size"):
        if info.get(key):
            return int(info[key])
    return int(psutil.virtual_memory().total)
