"""Whether a run's artifact still does what its report says: scored again, on the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.compiler.dspy_scope import corrected
from dspy_toolkit.compiler.evaluation import evaluate
from dspy_toolkit.compiler.outcomes import ExampleScore, read_outcomes
from dspy_toolkit.compiler.report import read_report, versions
from dspy_toolkit.compiler.runs import BUDGET, DIED, Run
from dspy_toolkit.compiler.statistics import Interval, paired_interval
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import IntegrityError, InvalidInput, NotFound
from dspy_toolkit.events import PhaseAdvanced, PhaseStarted, emit
from dspy_toolkit.programs.artifact import Artifact, load_artifact
from dspy_toolkit.programs.cache import under
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.opening import chosen_model
from dspy_toolkit.programs.task import FILE, load_task
from dspy_toolkit.store.history import FAILED, INTERRUPTED, RUNNING

_SAME = 1e-6
_COMPILED = "compiled"
_ENDED = {
    DIED: "died before its end",
    INTERRUPTED: "was interrupted",
    FAILED: "failed",
    BUDGET: "spent its budget",
}


@dataclass(frozen=True)
class Verification:
    """What scoring again found.

    Attributes:
        run: id.
        agrees: whether every example scored as it did.
        reported, found: mean scores, then and now.
        interval: 95 % paired interval of the difference.
        n: examples.
        changed: examples that score otherwise, as `data/test.jsonl:4`.
        environment: what differs from then, by name: (then, now).
    """

    run: str
    agrees: bool
    reported: float
    found: float
    interval: Interval
    n: int
    changed: tuple[str, ...]
    environment: Mapping[str, tuple[str | None, str | None]]

    def to_dict(self) -> dict[str, Any]:
        """The verification as JSON values."""
        return {**asdict(self), "interval": list(self.interval)}


def verify_run(
    run: Run,
    *,
    lm: LocalLM | None = None,
    threads: int | None = None,
    settings: Settings | None = None,
) -> Verification:
    """Score a run's artifact again, without the answers that are cached.

    Artifact, model and examples are checked against their digests first: other ones could neither
    agree nor disagree.

    Args:
        run: from `find_run`.
        lm: the model, for a run whose model was made in Python.
        threads: examples in work at once; None takes the settings'.
        settings: where runs lie; read from the environment when left out.

    Raises:
        NotFound: the run has no artifact or no task any more.
        IntegrityError: artifact, model or examples are not those of the run.
        InvalidInput: the run was made from Python, and keeps no task that can be loaded.
    """
    chosen = replace(settings or load_settings(), cache=False)
    artifact, report = _artifact(run), read_report(run.folder)
    before = read_outcomes(run.folder).get(_COMPILED, [])
    task = load_task(_task(run), chosen)
    split = task.data.test
    if split.digest != report["data"]["test"]["digest"]:
        raise IntegrityError(
            f"the test examples in {task.folder} are not those of the run; restore the folder"
        )
    with (
        closing(task.metric),
        chosen_model(lm, None, None, partial(_model, artifact, chosen)) as used,
        corrected(lambda line: None),
        dspy.context(lm=used, adapter=prompt_format(report["prompt_format"])),
        under(chosen),
    ):
        _same_model(used, artifact)
        emit(PhaseStarted(task.name, "evaluate", len(split.examples)))
        evaluation = evaluate(
            artifact.program(used.copy(cache=False)),
            split.examples,
            task.metric,
            threads=threads or chosen.threads,
            progress=lambda done, score: emit(PhaseAdvanced(task.name, "evaluate", done, score)),
        )
    return _verification(run.row.id, before, evaluation.scores, report)


def _artifact(run: Run) -> Artifact:
    folder = run.folder / "artifact"
    if not folder.is_dir():
        raise NotFound(f"run {run.row.id} has no artifact: {_why_none(run)}")
    return load_artifact(folder)


def _why_none(run: Run) -> str:
    if run.status == RUNNING:
        return "it is still going on; wait for its end"
    if run.resumable:
        return f"it {_ENDED[run.status]}; go on with `dspy-tk compile --resume {run.row.id}`"
    return "its result was worse, or the artifact was removed; compile again with --keep-anyway"


def _task(run: Run) -> Path:
    folder = run.folder / "task"
    if (folder / FILE).is_file():
        return folder
    if folder.is_dir():
        raise InvalidInput(
            f"run {run.row.id} was made from Python and keeps its examples only; "
            "score its artifact in Python again"
        )
    raise NotFound(f"the task of run {run.row.id} is not in {run.folder} any more")


def _model(
    artifact: Artifact, settings: Settings, model: str | None, adapter: Path | None
) -> LocalLM:
    return artifact.language_model(model, adapter, settings)


def _same_model(lm: LocalLM, artifact: Artifact) -> None:
    made_for = artifact.manifest["model"]["string"]
    if lm.model != made_for:
        raise IntegrityError(
            f"the artifact was made for {made_for}, this is {lm.model}; give the model of the run"
        )


def _verification(
    run: str, before: Sequence[ExampleScore], now: Sequence[float], report: Mapping[str, Any]
) -> Verification:
    then = [each.score for each in before]
    if len(then) != len(now):
        raise IntegrityError(f"run {run} kept {len(then)} scores of {len(now)} examples")
    changed = tuple(
        each.example
        for each, score in zip(before, now, strict=True)
        if abs(each.score - score) > _SAME
    )
    return Verification(
        run=run,
        agrees=not changed,
        reported=report[_COMPILED]["score"],
        found=round(sum(now) / len(now), 6),
        interval=paired_interval(then, now),
        n=len(now),
        changed=changed,
        environment=_differences(report["versions"], versions()),
    )


def _differences(
    then: Mapping[str, str], now: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    names = dict.fromkeys((*then, *now))
    return {
        name: (then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)
    }
