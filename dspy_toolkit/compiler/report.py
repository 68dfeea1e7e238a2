"""The report of a compile run: what is in it, and the schema it is held against."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from dspy_toolkit.compiler.evaluation import Evaluation
from dspy_toolkit.compiler.gate import judge
from dspy_toolkit.compiler.statistics import paired_interval
from dspy_toolkit.programs.artifact import Artifact
from dspy_toolkit.programs.data import Data
from dspy_toolkit.store.files import read_json, sha256_json, write_json
from dspy_toolkit.store.schema import check

FILE = "report.json"
SUMMARY = (
    "run", "task", "signature", "optimizer", "model", "seed", "baseline", "compiled", "calls",
    "seconds", "artifact", "gate", "stopped",
)  # fmt: skip
"""The keys that `dspy-tk compile --json` prints."""

_SCHEMA = files(__package__) / "report.schema.json"
_PACKAGES = ("dspy-toolkit", "dspy", "mlx", "mlx-lm", "transformers", "numpy")


def scores(baseline: Evaluation, compiled: Evaluation) -> dict[str, Any]:
    """Both scores, their difference on the same examples, and what failed."""
    return {
        "baseline": _score(baseline),
        "compiled": _score(compiled),
        "difference": {
            "score": round(compiled.score - baseline.score, 6),
            "interval": _rounded(paired_interval(baseline.scores, compiled.scores)),
        },
        "failures": {"baseline": _failures(baseline), "compiled": _failures(compiled)},
    }


def gate(
    baseline: Evaluation, compiled: Evaluation, alpha: float, against: Artifact | None
) -> dict[str, Any]:
    """The verdict over the result, and what it was compared with."""
    judgement = judge(baseline.scores, compiled.scores, alpha)
    return {**judgement.to_dict(), "against": str(against.folder) if against else None}


def data_facts(data: Data) -> dict[str, Any]:
    """Size and digest of every split."""
    return {
        split.name: {"n": len(split.examples), "digest": split.digest}
        for split in (data.train, data.validation, data.test)
    }


def versions() -> dict[str, str]:
    """What the run depended on: Python, platform and the packages that shape answers.

    `environment` is a digest over Python, platform and every package that is installed.
    """
    found = {
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["environment"] = sha256_json([found["python"], found["platform"], _installed()])
    return found


@cache
def _installed() -> list[str]:
    # Reads a file for each package, which costs more than a short run.
    return sorted({f"{each.name}=={each.version}" for each in distributions()})


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Check a report and write it as `report.json`."""
    check(report, _SCHEMA, "the report")
    write_json(folder / FILE, report)


def read_report(folder: Path) -> dict[str, Any]:
    """Read a run's report and check it.

    Raises:
        NotFound: the run has none. IntegrityError: it is damaged or does not fit the schema.
    """
    report = read_json(folder / FILE, "report")
    check(report, _SCHEMA, f"report {folder / FILE}")
    return dict(report)


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a report that `--json` prints."""
    return {key: report.get(key) for key in SUMMARY}


def _score(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "score": round(evaluation.score, 6),
        "n": evaluation.n,
        "interval": _rounded(evaluation.interval),
    }


def _failures(evaluation: Evaluation) -> dict[str, Any]:
    failures = evaluation.failures
    return {"count": len(failures), "first": failures[0].error if failures else None}


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, 6) for end in interval]
