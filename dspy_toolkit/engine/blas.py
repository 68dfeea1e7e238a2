"""A fast BLAS for MLX on Linux CPUs, loaded before MLX is.

MLX's Linux wheel carries the reference BLAS: a core that does over 80 GFLOP/s does 2.5 with it.
Its symbols are ordinary global ones, so a library loaded with `RTLD_GLOBAL` before `mlx.core` is
imported takes them over; loaded later, it changes nothing. On macOS MLX uses Accelerate.
"""

from __future__ import annotations

import ctypes
import glob
import platform
import site
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SPIN_MS = 1
_DISTRIBUTION = (
    "/usr/lib/{triple}/openblas-pthread/libblas.so.3",
    "/usr/lib/{triple}/openblas-openmp/libblas.so.3",
    "/usr/lib/{triple}/libopenblas.so.0",
    "/usr/lib/{triple}/blis-openmp/libblas.so.3",
    "/usr/lib64/libopenblasp.so.0",
    "/usr/lib64/libopenblas.so.0",
    "/usr/lib/libopenblas.so.0",
    "/usr/lib/libopenblas.so",
)


@dataclass(frozen=True)
class BlasReport:
    """What became of the wish for a fast BLAS.

    Attributes:
        path: the library that MLX uses now, or that was found but could not be used.
        loaded: whether MLX uses it.
        note: what happened and, where something is missing, what to do.
    """

    path: Path | None
    loaded: bool
    note: str


_report: BlasReport | None = None


def preload_blas(setting: str = "auto") -> BlasReport:
    """Load a fast BLAS for MLX. The first call in a process decides; later ones repeat its report.

    Args:
        setting: "auto" to look for one, "off", or the path of a library.
    """
    global _report
    if _report is None or (not _report.loaded and "mlx.core" not in sys.modules):
        _report = _preload(setting)
    return _report


def _preload(setting: str) -> BlasReport:
    if setting == "off":
        return BlasReport(None, False, "turned off by the setting blas")
    if sys.platform != "linux":
        return BlasReport(None, False, "not needed: MLX uses the system's own")
    if "mlx.core" in sys.modules:
        return BlasReport(
            None, False, "MLX was imported before; open the engine first, then import mlx"
        )
    if setting != "auto":
        return _load(Path(setting).expanduser())
    for candidate in candidates():
        report = _load(candidate)
        if report.loaded:
            return report
    return BlasReport(
        None,
        False,
        "none found; run `pip install 'dspy-toolkit[blas]'` on x86-64, "
        "or install libopenblas0-pthread",
    )


def loaded_library() -> ctypes.CDLL | None:
    """The fast BLAS that MLX uses, or None."""
    if _report is None or not _report.loaded:
        return None
    return ctypes.CDLL(str(_report.path))


def use_one_thread() -> None:
    """Have products run on one thread, in a process that holds a small model alone.

    They are over before another thread has joined in, which then only keeps a core from others.
    """
    library = loaded_library()
    if library is None:
        return
    for name in ("MKL_Set_Num_Threads", "openblas_set_num_threads"):
        if hasattr(library, name):
            getattr(library, name)(1)


def candidates() -> Iterator[Path]:
    """Existing libraries worth trying, best first."""
    for root in dict.fromkeys((sys.prefix, sys.base_prefix, site.getuserbase() or sys.prefix)):
        yield from map(Path, sorted(glob.glob(f"{root}/lib/libmkl_rt.so*"), reverse=True))
    triple = f"{platform.machine()}-linux-gnu"
    for pattern in _DISTRIBUTION:
        path = Path(pattern.format(triple=triple))
        if path.exists():
            yield path


def _load(path: Path) -> BlasReport:
    try:
        if "mkl_rt" in path.name:
            # MKL opens its OpenMP runtime by bare name, which is found only if already loaded.
            for runtime in sorted(path.parent.glob("libiomp5.so")):
                openmp = ctypes.CDLL(str(runtime), ctypes.RTLD_GLOBAL)
                # Its threads spin for 200 ms after each product, on the cores that callers need.
                # `kmp_set_blocktime` would count for this thread alone.
                openmp.kmp_set_defaults(f"KMP_BLOCKTIME={_SPIN_MS}".encode())
        library = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        return BlasReport(path, False, f"cannot be loaded: {error}")
    if not hasattr(library, "cblas_sgemm"):
        return BlasReport(path, False, "is no BLAS: it has no cblas_sgemm")
    return BlasReport(path, True, "loaded before MLX")
