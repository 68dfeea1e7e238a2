"""One run as the history knows it, and the copy of that which lies in the run's own folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.store.files import read_json, write_json

RUNNING = "running"
FINISHED = "finished"
FAILED = "failed"
INTERRUPTED = "interrupted"
UNKNOWN = "unknown"
"""Value of what a folder does not tell."""

_COPY = ".history.json"
_REPORT = "report.json"
_ID = re.compile(r"(\d{8}-\d{6})-(.+)-[0-9a-f]+")


@dataclass(frozen=True)
class RunRow:
    """One run as the history knows it.

    Attributes:
        started_at: seconds since the epoch, UTC.
        status: "running", "finished", "failed" or "interrupted".
        error: why it did not finish, in one line.
        report: the run's `report.json`, once finished.
    """

    id: str
    task: str
    optimizer: str
    model: str
    seed: int
    started_at: float
    status: str = RUNNING
    error: str | None = None
    report: dict[str, Any] | None = None


def keep_copy(runs: Path, row: RunRow) -> None:
    """Write what the history knows into the run's folder, where it has one.

    The report is left out: it has a file of its own there.

    Raises:
        StorageError: it cannot be written.
    """
    if (runs / row.id).is_dir():
        write_json(runs / row.id / _COPY, {**vars(row), "report": None})


def rows_of(runs: Path) -> Iterator[RunRow]:
    """The rows of all runs that have a folder, oldest first.

    What a folder without a copy does not tell is told from its report, else `UNKNOWN`.
    """
    if not runs.is_dir():
        return
    for folder in sorted(runs.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            yield _row_of(folder)


def _row_of(folder: Path) -> RunRow:
    report = _read(folder / _REPORT)
    copy = _read(folder / _COPY)
    known = {each.name for each in fields(RunRow)}
    if copy is not None and known == copy.keys():
        # The report is written before the history hears of it.
        status = FINISHED if report is not None else copy["status"]
        return RunRow(**{**copy, "report": report, "status": status})
    told = report or {}
    named = _ID.fullmatch(folder.name)
    return RunRow(
        id=folder.name,
        task=str(told.get("task") or (named.group(2) if named else UNKNOWN)),
        optimizer=_name(told.get("optimizer")),
        model=_name(told.get("model")),
        seed=told["seed"] if isinstance(told.get("seed"), int) else 0,
        started_at=_began(named.group(1)) if named else folder.stat().st_mtime,
        status=FINISHED if report is not None else INTERRUPTED,
        report=report,
    )


def _name(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("name") or value.get("string") or value.get("reference")
    return str(value or UNKNOWN)


def _began(stamp: str) -> float:
    return datetime.strptime(stamp, "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = read_json(file, "run")
    except ToolkitError:
        # Not there, or damaged as well: then the rest of the folder must do.
        return None
    return content if isinstance(content, dict) else None
