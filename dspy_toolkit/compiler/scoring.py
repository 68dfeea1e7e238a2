"""Scoring what lies on disk: a task's bare program, or an artifact on its task's data."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.compiler.dspy_scope import corrected
from dspy_toolkit.compiler.evaluation import Evaluation, evaluate
from dspy_toolkit.compiler.opening import open_model
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.events import PhaseAdvanced, PhaseStarted, emit
from dspy_toolkit.programs.artifact import Artifact, load_artifact
from dspy_toolkit.programs.cache import under
from dspy_toolkit.programs.calls import Calls, CallTally, counted
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.opening import chosen_model
from dspy_toolkit.programs.task import FILE, Task, load_task
from dspy_toolkit.store.manifest import NAME


@dataclass(frozen=True)
class Score:
    """How good a program is on one split.

    Attributes:
        artifact: folder of the artifact, or None for a task's bare program.
        interval: 95 % confidence interval of the score.
        failures: examples without an answer that could be read; they count as 0.
        first_failure: why the first of them failed.
    """

    task: str
    artifact: str | None
    signature: str | None
    model: str
    split: str
    score: float
    n: int
    interval: tuple[float, float]
    calls: Calls
    failures: int
    first_failure: str | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The score as JSON values."""
        return {**asdict(self), "interval": list(self.interval)}


def score_path(
    path: Path,
    *,
    split: str = "test",
    task: Path | None = None,
    model: str | None = None,
    adapter: Path | None = None,
    lm: LocalLM | None = None,
    threads: int | None = None,
    settings: Settings | None = None,
) -> Score:
    """Score a task's bare program, or an artifact.

    Args:
        path: a task folder, an artifact, or the folder of a run, whose artifact is meant.
        split: which examples.
        task: whose examples and metric; for an artifact the task its run was made from, which
            is kept in the run's folder.
        model, adapter, lm: what to run on instead of the task's or artifact's own model, see
            `open_model` and `Artifact.language_model`.
        threads: examples in work at once; None takes the settings'.
        settings: where runs lie; read from the environment when left out.

    Raises:
        NotFound, InvalidInput, IntegrityError, EngineError: with what to do.
    """
    chosen = settings or load_settings()
    artifact = artifact_at(path)
    subject = task_of(artifact, task, chosen) if artifact else load_task(task or path, chosen)
    examples = subject.data.split(split).examples
    opened = (
        partial(artifact.language_model, settings=chosen)
        if artifact
        else partial(open_model, subject, chosen)
    )
    started = time.monotonic()
    with (
        closing(subject.metric),
        chosen_model(lm, model, adapter, opened) as used,
        corrected(lambda line: None),
        dspy.context(lm=used, adapter=prompt_format(subject.format)),
        counted(CallTally()) as tally,
        under(chosen),
    ):
        evaluation = evaluate(
            artifact.program(used) if artifact else subject.program(),
            examples,
            subject.metric,
            threads=threads or chosen.threads,
            progress=_progress(subject.name, len(examples)),
        )
    return _score(
        evaluation, subject, artifact, used, split, tally.calls, time.monotonic() - started
    )


def artifact_at(path: Path) -> Artifact | None:
    """The artifact at a path, or None where a task lies there."""
    place = path.expanduser()
    if (place / FILE).is_file() or place.name == FILE:
        return None
    for folder in (place, place / "artifact"):
        if (folder / NAME).is_file():
            return load_artifact(folder)
    if not place.exists():
        raise NotFound(f"{place} does not exist; give a task folder or an artifact")
    raise InvalidInput(f"{place} is neither a task ({FILE}) nor an artifact ({NAME})")


def task_of(artifact: Artifact, task: Path | None, settings: Settings) -> Task:
    """The task whose examples an artifact is scored on: the one named, or that of its run."""
    if task is not None:
        return load_task(task, settings)
    kept = settings.runs / artifact.manifest["run"] / "task"
    if not (kept / FILE).is_file():
        raise NotFound(
            f"the task of artifact {artifact.folder} is not in {settings.runs} any more; "
            "name it with --task FOLDER"
        )
    found = load_task(kept, settings)
    ours, its = artifact.signature, found.signature
    if ours is not None and its is not None and ours.digest != its.digest:
        raise InvalidInput(
            f"artifact {artifact.folder} was carried from {its.reference} to {ours.reference} "
            "after it was compiled, so its run's examples do not fit; "
            "name a task of that signature with --task FOLDER"
        )
    return found


def _progress(name: str, total: int) -> Callable[[int, float], None]:
    emit(PhaseStarted(name, "evaluate", total))
    return lambda done, score: emit(PhaseAdvanced(name, "evaluate", done, score))


def _score(
    evaluation: Evaluation,
    task: Task,
    artifact: Artifact | None,
    lm: LocalLM,
    split: str,
    calls: Calls,
    seconds: float,
) -> Score:
    signature = artifact.signature if artifact else task.signature
    failures = evaluation.failures
    return Score(
        task=task.name,
        artifact=str(artifact.folder) if artifact else None,
        signature=signature.reference if signature else None,
        model=lm.names[0],
        split=split,
        score=round(evaluation.score, 6),
        n=evaluation.n,
        interval=(round(evaluation.interval[0], 6), round(evaluation.interval[1], 6)),
        calls=calls,
        failures=len(failures),
        first_failure=failures[0].error if failures else None,
        seconds=round(seconds, 3),
    )
