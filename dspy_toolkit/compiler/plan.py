"""What a compile run is going to cost, told before it is made: calls, tokens, time, memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import dspy

from dspy_toolkit.compiler.dspy_scope import corrected
from dspy_toolkit.compiler.evaluation import evaluate
from dspy_toolkit.compiler.job import Job
from dspy_toolkit.compiler.optimizers import shuffled
from dspy_toolkit.compiler.options import CompileOptions
from dspy_toolkit.compiler.preparing import task_job
from dspy_toolkit.compiler.prompt_sizes import Rendered, rendered
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine import describe_model
from dspy_toolkit.events import CallFinished, Event, subscribed
from dspy_toolkit.programs.cache import under
from dspy_toolkit.programs.calls import CallTally, counted
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.remote_lm import PREFIX
from dspy_toolkit.programs.task import Task

PROBE = 8
_DEMOS = ("k", "max_labeled_demos", "max_demos")


@dataclass(frozen=True)
class Step:
    """One phase of the run.

    Attributes:
        phase: "baseline", "optimize" or "test", as in the run itself.
        calls: model calls.
        prompt_tokens, answer_tokens: in all of them; None where nothing tells.
        seconds: None where neither a probe nor a rate was given.
    """

    phase: str
    calls: int
    prompt_tokens: int
    answer_tokens: int | None
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        steps: in their order.
        probe_calls: calls that were made to tell the time.
        memory_bytes: of weights and running calls; None for a model that runs elsewhere.
        notes: what the figures leave open.
    """

    task: str
    optimizer: str
    options: dict[str, Any]
    model: str
    teacher: str | None
    prompt_model: str | None
    steps: tuple[Step, ...]
    probe_calls: int
    memory_bytes: int | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values, with sums."""
        return {**asdict(self), "total": asdict(self.total)}

    @property
    def total(self) -> Step:
        """All steps together."""
        answers = [step.answer_tokens for step in self.steps if step.answer_tokens is not None]
        seconds = [step.seconds for step in self.steps if step.seconds is not None]
        whole = len(self.steps)
        return Step(
            "total",
            sum(step.calls for step in self.steps),
            sum(step.prompt_tokens for step in self.steps),
            sum(answers) if len(answers) == whole else None,
            sum(seconds) if len(seconds) == whole else None,
        )


@dataclass(frozen=True)
class _Pace:
    """How fast calls go, from a probe."""

    calls: int
    seconds_per_call: float
    answer_tokens: float
    good: float


def plan_task(
    task: Task,
    options: CompileOptions | None = None,
    settings: Settings | None = None,
    *,
    probe: int = PROBE,
    tokens_per_second: float | None = None,
) -> Plan:
    """Say what `compile_task` would do, and what it would cost.

    Prompts are rendered from the task's own examples and counted with the model's tokenizer. The
    model is called for the probe alone.

    Args:
        task: from `load_task`.
        options: as for the run.
        settings: as for the run.
        probe: training examples answered to measure the time, and how many answers are good; 0
            makes no call.
        tokens_per_second: prompt and answer tokens together, in place of a measured time.

    Raises:
        As `compile_task`, for all that is checked before its first call.
    """
    chosen, asked = settings or load_settings(), options or CompileOptions()
    with (
        task_job(task, asked, chosen, helpers=False) as job,
        corrected(lambda line: None),
        dspy.context(adapter=prompt_format(job.format), num_threads=job.threads),
        under(chosen),
    ):
        train, shown = shuffled(list(job.data.train.examples), job.seed), _shown(job.options)
        prompts = rendered(job.program, train, shown, job.lm)
        pace = _probed(job, train[: shown + probe], shown)
        steps, notes = _steps(job, prompts, pace, tokens_per_second)
        return Plan(
            task=job.name,
            optimizer=job.optimizer.name,
            options=dict(job.options),
            model=job.model,
            teacher=_name(asked.teacher or task.teacher),
            prompt_model=_name(asked.prompt_model or task.prompt_model),
            steps=steps,
            probe_calls=pace.calls if pace else 0,
            memory_bytes=_memory(job, prompts, pace, chosen),
            notes=notes,
        )


def _shown(options: Mapping[str, Any]) -> int:
    return next((int(options[name]) for name in _DEMOS if options.get(name)), 0)


def _name(model: str | LocalLM | None) -> str | None:
    return model if model is None or isinstance(model, str) else str(model.model)


def _probed(job: Job, examples: Sequence[dspy.Example], shown: int) -> _Pace | None:
    """Answer the last of the examples, with the first ones shown."""
    asked = examples[shown:] or examples[:1]
    if len(examples) <= shown:
        return None
    program = job.program.deepcopy()
    for predictor in program.predictors():
        predictor.demos = list(examples[:shown])
    calls: list[CallFinished] = []

    def note(event: Event) -> None:
        if isinstance(event, CallFinished) and event.run == tally.run:
            calls.append(event)

    tally = CallTally("probe")
    with subscribed(note), counted(tally), dspy.context(lm=job.lm.copy(cache=False)):
        started = time.perf_counter()
        found = evaluate(program, asked, job.metric, threads=job.threads)
        seconds = time.perf_counter() - started
    good = [outcome.score >= job.metric.threshold for outcome in found.outcomes]
    made = max(1, len(calls))
    return _Pace(
        calls=len(calls),
        seconds_per_call=seconds / made,
        answer_tokens=fmean([each.output_tokens for each in calls] or [0]),
        good=fmean(good) or 0.5 / len(good),
    )


def _steps(
    job: Job, prompts: Rendered, pace: _Pace | None, rate: float | None
) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    row, sizes = job.optimizer, job.sizes
    if pace is not None:
        sizes = replace(sizes, good=pace.good)
    cost = row.cost(job.options, sizes)
    test = len(job.data.test.examples) * sizes.predictors

    def step(phase: str, calls: int, prompt: float) -> Step:
        answers = None if pace is None else round(calls * pace.answer_tokens)
        tokens = calls * prompt + (answers or 0)
        timed = None if pace is None else calls * pace.seconds_per_call
        seconds = tokens / rate if rate else timed
        rounded = None if seconds is None else round(seconds, 1)
        return Step(phase, calls, round(calls * prompt), answers, rounded)

    notes = []
    if row.unforeseen:
        notes.append(f"the calls of {row.name} can differ: {row.unforeseen}")
    if cost.proposed:
        notes.append(f"{round(cost.proposed)} of its calls go to the prompt model, taken to be "
                     "as long and as fast as the others")  # fmt: skip
    if prompts.estimated:
        notes.append("tokens are taken to be four characters each: the model's are not at hand")
    if sizes.predictors > 1:
        notes.append("the program has several steps; each is taken to be as long as its first")
    if pace is None and not rate:
        notes.append("no time is told without a probe or a rate")
    steps = (
        step("baseline", test, prompts.bare),
        step("optimize", cost.calls(sizes.predictors), prompts.shown),
        step("test", test, prompts.shown),
    )
    return steps, tuple(notes)


def _memory(job: Job, prompts: Rendered, pace: _Pace | None, settings: Settings) -> int | None:
    source = job.lm.source
    if source is None or source.reference.startswith(PREFIX):
        return None
    facts = describe_model(source.reference, settings=settings)
    longest = prompts.longest + (pace.answer_tokens if pace else 0)
    return round(facts.weight_bytes + job.threads * longest * (facts.cache_bytes_per_token or 0))
