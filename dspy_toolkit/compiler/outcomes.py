"""`examples.jsonl` in a run's folder: what every test example scored, and why it failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dspy_toolkit.errors import IntegrityError
from dspy_toolkit.store.files import read_text, write_text

if TYPE_CHECKING:
    from dspy_toolkit.compiler.evaluation import Evaluation
    from dspy_toolkit.programs.data import Split

FILE = "examples.jsonl"


@dataclass(frozen=True)
class ExampleScore:
    """One line of the file.

    Attributes:
        phase: "baseline" or "compiled".
        example: where the example stands, as `data/test.jsonl:4`.
        score: in [0, 1].
        error: why the program failed on it, or None.
    """

    phase: str
    example: str
    score: float
    error: str | None


def write_outcomes(folder: Path, split: Split, phases: Mapping[str, Evaluation]) -> None:
    """Write the file anew, atomically, with the phases that are over."""
    lines = [
        asdict(ExampleScore(phase, row.place, outcome.score, outcome.error))
        for phase, evaluation in phases.items()
        for row, outcome in zip(split.rows, evaluation.outcomes, strict=True)
    ]
    write_text(folder / FILE, "".join(f"{json.dumps(line)}\n" for line in lines))


def read_outcomes(folder: Path) -> dict[str, list[ExampleScore]]:
    """Every example's score by phase, in the examples' order; empty where none was kept.

    Raises:
        IntegrityError: the file is damaged.
    """
    path, phases = folder / FILE, dict[str, list[ExampleScore]]()
    if not path.is_file():
        return phases
    for number, line in enumerate(read_text(path, "scores").splitlines(), start=1):
        try:
            score = ExampleScore(**json.loads(line))
        except (ValueError, TypeError):
            raise IntegrityError(f"{path}:{number} is damaged; compile again") from None
        phases.setdefault(score.phase, []).append(score)
    return phases
