"""`candidates/` in a run's folder: what each candidate was, and how it did on each example.

Nothing here loads DSPy, so that looking at a candidate is quick.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.errors import IntegrityError, NotFound
from dspy_toolkit.store.files import read_json, write_json

FOLDER = "candidates"


@dataclass(frozen=True)
class CandidateRecord:
    """One candidate that an optimizer tried.

    Attributes:
        candidate: counted from 1.
        score: mean over `examples`, in [0, 1].
        prompts: of each step of the program its name, instructions and demonstrations, and how
            its decisions are made where that is fitted.
        examples: where each one stands, its score, and why the program failed on it, or None.
    """

    candidate: int
    score: float
    prompts: list[dict[str, Any]]
    examples: list[dict[str, Any]]


def write_candidate(run: Path, record: CandidateRecord) -> None:
    """Keep a candidate in a run's folder, in place of the one of its number."""
    write_json(_file(run, record.candidate), asdict(record))


def read_candidate(run: Path, number: int) -> CandidateRecord:
    """One candidate of a run.

    Raises:
        NotFound: the run has none of this number. IntegrityError: its file is damaged.
    """
    file = _file(run, number)
    if not file.is_file():
        known = len(list((run / FOLDER).glob("*.json")))
        raise NotFound(f"run {run.name} has no candidate {number}; it tried {known}")
    try:
        return CandidateRecord(**read_json(file, "candidate"))
    except TypeError:
        raise IntegrityError(f"candidate {file} cannot be read; compile again") from None


def _file(run: Path, number: int) -> Path:
    return run / FOLDER / f"{number:04}.json"
