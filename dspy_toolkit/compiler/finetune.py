"""Fine-tuning a task's model on its program's own good answers, against the compiled prompt."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dspy
from dspy.teleprompt import BootstrapFinetune

from dspy_toolkit.compiler.dspy_scope import corrected
from dspy_toolkit.compiler.evaluation import evaluate
from dspy_toolkit.compiler.job import CompileResult, Job
from dspy_toolkit.compiler.opening import open_model
from dspy_toolkit.compiler.optimizers import Cost, Optimizer
from dspy_toolkit.compiler.preparing import keep_task
from dspy_toolkit.compiler.rival import load_rival
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.compiler.stages import execute
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.artifact import Artifact
from dspy_toolkit.programs.cache import under
from dspy_toolkit.programs.calls import CallTally, counted
from dspy_toolkit.programs.finetune_provider import TrainAdapter, tunable
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.task import Task
from dspy_toolkit.store.files import refuse_existing

NAME = "bootstrap_finetune"


@dataclass(frozen=True)
class FinetuneOptions:
    """What a fine-tuning may choose over what its task says.

    Attributes:
        teacher: an artifact whose answers are learnt from and compared with, or its run's folder;
            None compiles the task first.
        model: what is fine-tuned; None takes the task's model.
        seed: of everything random.
        threads: examples in work at once; None takes the settings'.
        output: where to put a copy of the artifact.
        keep_anyway: make an artifact even of a result that is worse.
    """

    teacher: Path | None = None
    model: str | None = None
    seed: int = 0
    threads: int | None = None
    output: Path | None = None
    keep_anyway: bool = False


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning gives.

    Attributes:
        compiled: the tuned program beside the teacher's on the same test split; its report's
            `baseline` is the teacher.
        teacher: the artifact that was learnt from.
        adapter: folder of the adapter, which every command takes with `--adapter`.
        traces: good answers that were learnt from.
        asked: examples that the teacher was given.
    """

    compiled: CompileResult
    teacher: Path
    adapter: Path
    traces: int
    asked: int


def finetune_task(
    task: Task,
    train: TrainAdapter,
    options: FinetuneOptions | None = None,
    settings: Settings | None = None,
) -> FinetuneResult:
    """Fine-tune a task's model with DSPy's BootstrapFinetune, and score it on the test split.

    The teacher answers the train and validation examples; answers that reach the metric's
    threshold are learnt, without demonstrations in the prompt.

    Args:
        task: from `load_task`.
        train: makes an adapter from chat examples.
        options: what to choose over the task.
        settings: where runs lie; read from the environment when left out.

    Raises:
        InvalidInput: no answer is good enough to be learnt, or `output` is there already.
        NotFound, EngineError, StorageError, TrainingDiverged: with what to do.
    """
    chosen, asked = settings or load_settings(), options or FinetuneOptions()
    if asked.output is not None:
        refuse_existing(asked.output.expanduser())
    teacher = _teacher(task, asked, chosen)
    examples = [*task.data.train.examples, *task.data.validation.examples]
    tuned, traces = _tuned(task, teacher, examples, train, asked, chosen)
    assert tuned.source is not None
    assert tuned.source.adapter is not None
    try:
        compiled = execute(
            _job(task, teacher, tuned, traces, asked, chosen),
            chosen,
            fill=partial(keep_task, task),
            output=asked.output,
        )
    finally:
        tuned.release()
    return FinetuneResult(
        compiled, teacher.folder, Path(tuned.source.adapter), traces, len(examples)
    )


def _teacher(task: Task, asked: FinetuneOptions, settings: Settings) -> Artifact:
    folder = asked.teacher
    if folder is None:
        compiled = compile_task(
            task,
            CompileOptions(
                model=asked.model, seed=asked.seed, threads=asked.threads, keep_anyway=True
            ),
            settings,
        )
        folder = compiled.folder
    return load_rival(folder, task.plan, list(task.data.test.examples[0].inputs().keys()))


def _tuned(
    task: Task,
    teacher: Artifact,
    examples: list[dspy.Example],
    train: TrainAdapter,
    asked: FinetuneOptions,
    settings: Settings,
) -> tuple[LocalLM, int]:
    threads = asked.threads or settings.threads
    style = prompt_format(task.format)
    with (
        ExitStack() as cleanup,
        corrected(lambda line: None),
        dspy.context(adapter=style, num_threads=threads),
        counted(CallTally()),
        under(settings),
    ):
        lm = open_model(task, settings, asked.model)
        cleanup.callback(lm.release)
        speaker = teacher.language_model(settings=settings)
        cleanup.callback(speaker.release)
        master = teacher.program(speaker)
        good = _well_answered(task, master, examples, threads)
        student = task.program()
        student.set_lm(tunable(lm, train, settings))
        learner = BootstrapFinetune(
            metric=_strict(task), adapter=style, exclude_demos=True, num_threads=threads
        )
        learner.compile(student, trainset=good, teacher=master)
        tuned: LocalLM = student.predictors()[0].lm
        return tuned.copy(seed=asked.seed), len(good)


def _well_answered(
    task: Task, program: dspy.Module, examples: list[dspy.Example], threads: int
) -> list[dspy.Example]:
    """The examples that the teacher gets right.

    DSPy's bootstrapping ends at the first answer that cannot be read, so it is given none such.
    """
    found = evaluate(program, examples, task.metric, threads=threads)
    least = task.metric.threshold
    good = [
        example
        for example, outcome in zip(examples, found.outcomes, strict=True)
        if outcome.error is None and outcome.score >= least
    ]
    if not good:
        raise InvalidInput(
            f"none of {len(examples)} answers reaches the metric's threshold of {least:g}; "
            "compile with a larger model first and give its artifact as the teacher"
        )
    return good


def _strict(task: Task) -> Any:
    """The metric as a yes or no: DSPy keeps every trace whose score is not zero."""
    return lambda example, prediction, trace=None: task.metric(example, prediction, [])


def _job(
    task: Task,
    teacher: Artifact,
    tuned: LocalLM,
    traces: int,
    asked: FinetuneOptions,
    settings: Settings,
) -> Job:
    row = Optimizer(
        name=NAME,
        dspy_class="BootstrapFinetune",
        description="Trains an adapter on the program's own good answers.",
        options=(),
        compile=lambda program, work, options: program.reset_copy(),
        cost=lambda options, sizes: Cost(),
    )
    return Job(
        name=task.name,
        plan=task.plan,
        program=task.program(),
        metric=task.metric,
        data=task.data,
        format=task.format,
        optimizer=row,
        options={"traces": traces},
        lm=tuned,
        owns_model=True,
        seed=asked.seed,
        threads=asked.threads or settings.threads,
        against=teacher,
        alpha=CompileOptions().alpha,
        keep_anyway=asked.keep_anyway,
    )
