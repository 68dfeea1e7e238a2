"""The report of a training run: what is in it, and the schema it is held against."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from dspy_toolkit.store.files import read_json, write_json
from dspy_toolkit.store.schema import check
from dspy_toolkit.training.checkpoints import Checkpoint
from dspy_toolkit.training.progress import Progress

FILE = "report.json"
_SCHEMA = files(__package__) / "report.schema.json"
_PACKAGES = ("dspy-toolkit", "mlx", "mlx-lm", "transformers", "numpy")


def learning_facts(progress: Progress) -> dict[str, Any]:
    """What a run's progress says about it."""
    best = min(progress.evaluations, key=lambda each: each[1], default=None)
    return {
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 3),
        "tokens_per_s": round(progress.tokens / max(progress.seconds, 1e-9), 1),
        "loss": {
            "first": progress.curve[0][1],
            "last": progress.curve[-1][1],
            "curve": progress.curve,
        },
        "validation": {
            "curve": progress.evaluations,
            "best": None if best is None else {"step": int(best[0]), "loss": best[1]},
        },
    }


def checkpoint_facts(checkpoints: tuple[Checkpoint, ...]) -> list[dict[str, Any]]:
    """The checkpoints that are left, oldest first."""
    return [{"step": each.step, "loss": each.loss} for each in checkpoints]


def versions() -> dict[str, str]:
    """What the run depended on: Python, platform and the packages that are installed."""
    found = {
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
    }
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Check a report and write it as `report.json`."""
    check(report, _SCHEMA, "the report")
    write_json(folder / FILE, report)


def read_report(folder: Path) -> dict[str, Any] | None:
    """A run's report, or None while it has none.

    Raises:
        IntegrityError: it is damaged or does not fit the schema.
    """
    if not (folder / FILE).is_file():
        return None
    report = read_json(folder / FILE, "report")
    check(report, _SCHEMA, f"report {folder / FILE}")
    return dict(report)
