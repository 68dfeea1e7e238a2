"""Is this machine ready? One finding for each thing that models need."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.source import (
    EMBEDDED_FOLDER,
    check_tokenizer,
    one_line,
    read_config,
    weight_files,
)
from dspy_toolkit.engine.speed import measure
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.store.files import write_text
from dspy_toolkit.store.manifest import read_manifest

Level = Literal["ok", "warning", "problem"]
_NEEDED = ("mlx", "mlx-lm", "dspy")
_WELCOME = ("llguidance",)
_ROOM_BYTES = 2_000_000_000
_WORTH_IT = 2.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what.
        level: "ok", "warning" (works, but worse than it could) or "problem".
        found: what was found.
        fix: what to do about it; empty when ok.
    """

    subject: str
    level: Level
    found: str
    fix: str = ""


def check_machine(settings: Settings | None = None) -> list[Finding]:
    """Look at everything that models need here. Takes a few seconds, for the measurements."""
    settings = settings or load_settings()
    return [
        _platform(),
        _python(),
        *_packages(),
        _device(settings),
        *_blas(settings),
        _home(settings),
        _embedded(),
    ]


def _platform() -> Finding:
    machine = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if sys.platform == "linux" or (sys.platform == "darwin" and platform.machine() == "arm64"):
        return Finding("platform", "ok", machine)
    fix = "use a Mac with Apple Silicon, or Linux on x86-64 or arm64"
    return Finding("platform", "problem", f"{machine}: MLX does not run here", fix)


def _python() -> Finding:
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "ok", platform.python_version())
    return Finding("python", "problem", platform.python_version(), "use Python 3.11, 3.12 or 3.13")


def _packages() -> Iterator[Finding]:
    for name in (*_NEEDED, *_WELCOME):
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            if name in _NEEDED:
                fix = "run `pip install dspy-toolkit`"
                yield Finding(name, "problem", "not installed", fix)
            else:
                yield Finding(name, "ok", "not installed; nothing here needs it")


def _device(settings: Settings) -> Finding:
    try:
        from dspy_toolkit.engine.device import choose_device

        device = choose_device(settings.device, settings.dtype)
    except ToolkitError as error:
        return Finding("device", "problem", one_line(error), "set device = 'auto'")
    except ImportError as error:
        fix = "run `pip install --force-reinstall mlx` for this platform"
        return Finding("device", "problem", f"MLX cannot be loaded: {one_line(error)}", fix)
    numbers = device.dtype or "the weights' own numbers"
    found = f"{device.name}, {numbers}, {device.memory_bytes / 1e9:.1f} GB free for models"
    return Finding("device", "ok", found)


def _blas(settings: Settings) -> Iterator[Finding]:
    if sys.platform != "linux":
        return
    stock = measure("off")
    if stock.gflops is None:
        fix = "run `pip install --force-reinstall 'mlx[cpu]'`"
        yield Finding("matrix products", "problem", stock.blas.note, fix)
        return
    plain = f"MLX's own: {stock.gflops:.1f} GFLOP/s"
    if settings.blas == "off":
        fix = "set blas = 'auto' to look for a faster one"
        yield Finding("BLAS", "warning", f"turned off; {plain}", fix)
        return
    fast = measure(settings.blas)
    if fast.gflops is None:
        fix = "set blas = 'off', or the path of another library"
        yield Finding("BLAS", "problem", f"{settings.blas}: {fast.blas.note}", fix)
    elif not fast.blas.loaded:
        wrong = settings.blas != "auto"
        found = f"{fast.blas.path or 'none'} {fast.blas.note}" if wrong else f"none found; {plain}"
        fix = (
            "set blas = 'auto', or the path of a BLAS library"
            if wrong
            else "run `pip install 'dspy-toolkit[blas]'` on x86-64, or install libopenblas0-pthread"
        )
        yield Finding("BLAS", "problem" if wrong else "warning", found, fix)
    else:
        gain = fast.gflops / stock.gflops
        found = f"{fast.blas.path}: {fast.gflops:.1f} GFLOP/s, {plain}"
        slow = "close what else uses the processor and look again, or set another library"
        yield (
            Finding("BLAS", "ok", found)
            if gain >= _WORTH_IT
            else Finding("BLAS", "warning", f"{found}: hardly faster", slow)
        )


def _home(settings: Settings) -> Finding:
    probe = settings.home / ".doctor"
    try:
        write_text(probe, "")
        probe.unlink()
    except (ToolkitError, OSError) as error:
        fix = "set DSPY_TK_HOME to a folder you may write to"
        return Finding("home", "problem", one_line(error), fix)
    free = shutil.disk_usage(settings.home).free
    found = f"{settings.home}, {free / 1e9:.1f} GB free"
    if free < _ROOM_BYTES:
        fix = "free some space, or set DSPY_TK_HOME to a folder on another disk"
        return Finding("home", "warning", found, fix)
    return Finding("home", "ok", found)


def _embedded() -> Finding:
    try:
        read_config(EMBEDDED_FOLDER)
        files = weight_files(EMBEDDED_FOLDER)
        check_tokenizer(EMBEDDED_FOLDER)
        read_manifest(EMBEDDED_FOLDER, "embedded model")
    except ToolkitError as error:
        fix = "run `pip install --force-reinstall dspy-toolkit`"
        return Finding("embedded model", "problem", one_line(error), fix)
    size = sum(file.stat().st_size for file in files)
    return Finding("embedded model", "ok", f"{size / 1e6:.1f} MB, digests match")
