"""One compile run, step by step: baseline, optimize, test, save, report."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.compiler.candidates import CandidateLog, CandidateWatch, Keeping
from dspy_toolkit.compiler.course import start_of
from dspy_toolkit.compiler.dspy_scope import corrected
from dspy_toolkit.compiler.evaluation import Evaluation, evaluate
from dspy_toolkit.compiler.gate import WORSE
from dspy_toolkit.compiler.job import CompileResult, Job
from dspy_toolkit.compiler.optimizers import Work, shuffled
from dspy_toolkit.compiler.optimizers.proposals import Routed, proposing
from dspy_toolkit.compiler.outcomes import write_outcomes
from dspy_toolkit.compiler.record import RunRecord, opened_journal, recorded
from dspy_toolkit.compiler.report import data_facts, gate, scores, versions
from dspy_toolkit.compiler.rival import ready
from dspy_toolkit.compiler.runs import BUDGET
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.events import subscribed
from dspy_toolkit.programs.artifact import save_artifact
from dspy_toolkit.programs.cache import under
from dspy_toolkit.programs.calls import Calls, CallTally, Stopped, counted
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.journal import CallJournal, cost_of
from dspy_toolkit.programs.limits import BudgetSpent, FailureLimit, Ledger
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.metrics import Metric, MetricError
from dspy_toolkit.store.files import copy_tree, new_folder, storage_errors

_PATIENCE_S = 10.0
_HUNG = (
    "candidate_programs", "mb_candidate_programs", "trial_logs", "detailed_results", "simba_idx",
    "score", "prompt_model_total_calls", "total_calls", "results_best", "results_latest",
)  # fmt: skip


def execute(
    job: Job, settings: Settings, *, fill: Callable[[Path], None], output: Path | None
) -> CompileResult:
    """Run a job and record it.

    Args:
        job: what to do.
        settings: where the run lies.
        fill: puts the task as it is now into the given folder.
        output: where to put a copy of the artifact.
    """
    start = start_of(job, settings, fill)
    with (
        recorded(
            settings,
            start,
            task=job.name,
            optimizer=job.optimizer.name,
            model=job.model,
            seed=job.seed,
            fill=fill,
        ) as record,
        corrected(record.say),
        dspy.context(lm=job.lm, adapter=prompt_format(job.format), num_threads=job.threads),
        opened_journal(record, start) as journal,
        counted(_tally(job, record, journal)) as tally,
        under(settings),
    ):
        try:
            stages = _stages(job, record, tally, settings)
        except KeyboardInterrupt:
            _hurry(job, tally)
            raise
        except Stopped as stopped:
            raise stopped.error from stopped.error.__cause__
        report = {
            "run": record.run,
            "task": job.name,
            "signature": job.plan.signature and job.plan.signature.reference,
            "optimizer": job.optimizer.name,
            "model": job.model,
            "seed": job.seed,
            **scores(stages.baseline, stages.compiled),
            "gate": gate(stages.baseline, stages.compiled, job.alpha, job.against),
            "calls": {"made": stages.calls.made, "cached": stages.calls.cached},
            "candidates": stages.candidates,
            "stopped": stages.stopped,
            **_facts(job, record),
        }
        dropped = report["gate"]["verdict"] == WORSE and not job.keep_anyway
        artifact = None if dropped else _save(job, record, stages.program, report, output)
        report |= {"artifact": artifact and str(artifact), "seconds": round(journal.elapsed_s, 3)}
        record.finish(report)
    return CompileResult(report, record.folder, artifact, stages.program)


@dataclass(frozen=True)
class _Stages:
    """What the stages of a run came to.

    Attributes:
        candidates: validation scores.
        calls: of all stages.
        stopped: "budget" where the optimizer did not come to its end.
    """

    baseline: Evaluation
    program: dspy.Module
    candidates: list[float]
    compiled: Evaluation
    calls: Calls
    stopped: str | None


def _tally(job: Job, record: RunRecord, journal: CallJournal) -> CallTally:
    budget = job.course.budget
    earlier = replace(cost_of(journal.recovered, budget), seconds=0.0)
    ledger = Ledger(budget, earlier, lambda: journal.elapsed_s)
    return CallTally(record.run, journal, ledger, FailureLimit(job.course.max_failures))


def _stages(job: Job, record: RunRecord, tally: CallTally, settings: Settings) -> _Stages:
    ledger = tally.ledger
    assert ledger is not None
    began = ledger.spent
    baseline = _baseline(job, record, settings)
    write_outcomes(record.folder, job.data.test, {"baseline": baseline})
    ledger.keep_back(replace(tally.asked, seconds=ledger.spent.seconds - began.seconds))
    program, candidates, stopped = _optimize(job, record, tally)
    ledger.release()
    # What the optimizer left behind stays stopped; the last stage has a tally of its own.
    with counted(tally.successor()) as last:
        compiled = _score(job, record, "test", program)
    both = {"baseline": baseline, "compiled": compiled}
    write_outcomes(record.folder, job.data.test, both)
    return _Stages(baseline, program, candidates, compiled, last.calls, stopped)


def _hurry(job: Job, tally: CallTally) -> None:
    """End the threads that are still at work: no new calls, and those in flight break off."""
    tally.stop(ToolkitError("the run was interrupted"))
    if job.owns_model:
        job.lm.release()
    tally.drain(_PATIENCE_S)


def _baseline(job: Job, record: RunRecord, settings: Settings) -> Evaluation:
    if job.against is None:
        return _score(job, record, "baseline", job.program)
    with ready(job.against, job.program, job.lm, settings) as program:
        return _score(job, record, "baseline", program)


def _score(job: Job, record: RunRecord, phase: str, program: dspy.Module) -> Evaluation:
    examples = job.data.test.examples
    advance = record.phase(phase, len(examples))
    return evaluate(program, examples, job.metric, threads=job.threads, progress=advance)


def _optimize(
    job: Job, record: RunRecord, tally: CallTally
) -> tuple[dspy.Module, list[float], str | None]:
    train, validation = list(job.data.train.examples), list(job.data.validation.examples)
    cost = job.optimizer.cost(job.options, job.sizes)
    total = round(cost.scored) if cost.scored or not cost.taught else None
    keeping = Keeping(record.run, record.folder, job.data.locate)
    candidates = CandidateWatch(keeping, tally, len(job.data.test.examples))
    watch = _Watch(job.metric, tally, candidates, record.phase("optimize", total))
    work = Work(
        train=shuffled(train, job.seed),
        validation=validation,
        metric=watch,
        threads=job.threads,
        seed=job.seed,
        lm=job.lm,
        teacher=job.teacher,
        prompt_model=proposing(job.prompt_model or job.lm),
        adapters=job.adapters,
        feedback=job.metric.feedback,
        candidates=candidates,
    )
    log = CandidateLog(record.folder, record.run)
    listening = dspy.context(
        callbacks=[*dspy.settings.callbacks, candidates], adapter=Routed(dspy.settings.adapter)
    )
    stopped = None
    with subscribed(log), listening:
        try:
            program = job.optimizer.compile(job.program, work, job.options)
        except Stopped as problem:
            if not isinstance(problem.error, BudgetSpent):
                raise
            tally.drain(_PATIENCE_S)
            record.say(f"{problem.error}; the best candidate so far is kept")
            program, stopped = candidates.best or job.program.reset_copy(), BUDGET
    log.check()
    candidates.check()
    # DSPy hangs every candidate, with all its scores, onto the winner.
    for name in _HUNG:
        vars(program).pop(name, None)
    return program, candidates.scores, stopped


def _spoken_by(program: dspy.Module, lm: LocalLM) -> LocalLM:
    """The model of a program: its own, where an optimizer trained one."""
    found = next((each.lm for each in program.predictors() if each.lm is not None), lm)
    return found if isinstance(found, LocalLM) else lm


class _Watch:
    """The metric as an optimizer calls it: counts examples, and ends the run if it is at fault."""

    def __init__(
        self,
        metric: Metric,
        tally: CallTally,
        candidates: CandidateWatch,
        advance: Callable[[int, float | None], None],
    ) -> None:
        self._metric = metric
        self._tally = tally
        self._candidates = candidates
        self._advance = advance
        self._lock = threading.Lock()
        self._done = 0

    def __call__(self, example: dspy.Example, prediction: Any, trace: Any = None) -> float | bool:
        try:
            score = self._metric(example, prediction, trace)
        except MetricError as error:
            self._tally.stop(error)
            raise Stopped(error) from error
        if trace is None:
            with self._lock:
                self._done += 1
                self._advance(self._done, max(self._candidates.scores, default=None))
        return score


def _facts(job: Job, record: RunRecord) -> dict[str, Any]:
    return {
        "optimizer_options": dict(job.options),
        "model_string": job.lm.model,
        "adapter": job.lm.source.adapter if job.lm.source else None,
        "prompt_format": job.format,
        "metric": job.metric.name,
        "data": data_facts(job.data),
        "versions": versions(),
        "started_at": datetime.fromtimestamp(record.started_at, UTC).isoformat(),
    }


def _save(
    job: Job, record: RunRecord, program: dspy.Module, report: dict[str, Any], output: Path | None
) -> Path:
    kept = (
        "run", "task", "optimizer", "optimizer_options", "seed", "baseline", "compiled",
        "difference", "gate", "metric", "prompt_format", "data", "versions", "started_at",
    )  # fmt: skip
    facts = {key: report[key] for key in kept}
    facts["inputs"] = list(job.data.inputs)
    plan, lm = job.plan.around(program), _spoken_by(program, job.lm)
    place = record.folder / "artifact"
    with storage_errors(place):
        # There is one already where a run goes on that ended at its budget.
        shutil.rmtree(place, ignore_errors=True)
    artifact = save_artifact(place, program, plan, lm, facts).folder
    if output is None:
        return artifact
    target = output.expanduser().absolute()
    with new_folder(target) as place:
        copy_tree(artifact, place)
    return target
