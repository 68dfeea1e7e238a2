"""How fast MLX multiplies matrices here; run as a program, it answers for one BLAS setting.

A process can load one BLAS only, and a library that does not suit the machine may take the
process with it, so each setting is measured in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dspy_toolkit.engine.blas import BlasReport, preload_blas

_ROWS, _INNER, _COLUMNS = 512, 1024, 1024
_LONG_S = 120.0


@dataclass(frozen=True)
class Measured:
    """Speed of float32 matrix products on the CPU under one BLAS setting.

    Attributes:
        blas: what the setting led to.
        gflops: 1e9 operations per second, or None when the measuring process failed.
    """

    blas: BlasReport
    gflops: float | None


def measure(setting: str) -> Measured:
    """Measure a BLAS setting ("auto", "off" or a path) in a fresh process."""
    command = [sys.executable, "-m", "dspy_toolkit.engine.speed", setting]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONG_S, check=True)
        found = json.loads(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        reason = f"MLX failed with it: {type(error).__name__}"
        return Measured(BlasReport(None, False, reason), None)
    path = Path(found["path"]) if found["path"] else None
    return Measured(BlasReport(path, found["loaded"], found["note"]), found["gflops"])


def matmul_gflops(seconds: float = 0.5) -> float:
    """Measure (512 x 1024) @ (1024 x 1024) in float32 on the CPU, for about this long."""
    import mlx.core as mx

    with mx.stream(mx.cpu):
        left, right = mx.ones((_ROWS, _INNER)), mx.ones((_INNER, _COLUMNS))
        # The first product starts the library's threads.
        mx.eval(left @ right)
        began, products = time.perf_counter(), 0
        while products == 0 or time.perf_counter() - began < seconds:
            mx.eval(left @ right)
            products += 1
        spent = time.perf_counter() - began
    return 2e-9 * _ROWS * _INNER * _COLUMNS * products / spent


def main(setting: str) -> None:
    """Print what came of a setting as one JSON object."""
    report = preload_blas(setting)
    found = {
        "path": str(report.path) if report.path else None,
        "loaded": report.loaded,
        "note": report.note,
        "gflops": matmul_gflops(),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "auto")
