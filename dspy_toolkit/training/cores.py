"""Cores to train on, and keeping the BLAS from using them all by itself."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from dspy_toolkit.engine.blas import preload_blas

# Names of the two calls by library: MKL's, OpenBLAS's.
_CALLS = (
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
)


def usable_cores() -> int:
    """Physical cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let each matrix product run on one thread while the block runs.

    Threads of our own fill the cores better, and results then do not depend on how many cores
    there are. Does nothing where the BLAS is the system's own.
    """
    report = preload_blas()
    library = ctypes.CDLL(str(report.path)) if report.loaded and report.path else None
    for getter, setter in _CALLS:
        if library is not None and hasattr(library, setter) and hasattr(library, getter):
            before = int(getattr(library, getter)())
            getattr(library, setter)(1)
            try:
                yield
            finally:
                getattr(library, setter)(before)
            return
    yield
