"""From a task and what is asked for to a job: all is checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dspy_toolkit.compiler.course import asked_options, check_course, check_resumed
from dspy_toolkit.compiler.job import Job, Models, Settled
from dspy_toolkit.compiler.opening import (
    check_model,
    countable,
    helper,
    names_of,
    open_model,
    reference_for,
)
from dspy_toolkit.compiler.optimizers import DEFAULT, Optimizer, optimizer
from dspy_toolkit.compiler.options import CompileOptions
from dspy_toolkit.compiler.rival import load_rival
from dspy_toolkit.config import Settings
from dspy_toolkit.errors import InvalidInput, NotFound
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.opening import chosen_model
from dspy_toolkit.programs.task import KEPT_SIGNATURE, Task
from dspy_toolkit.programs.task_file import check_name
from dspy_toolkit.registry.toml_text import to_toml
from dspy_toolkit.store.files import copy_files, write_text


@contextmanager
def task_job(
    task: Task, asked: CompileOptions, settings: Settings, *, helpers: bool = True
) -> Iterator[Job]:
    """The job of a task, with its models open inside the block.

    Args:
        task: from `load_task`; its metric is closed after the block.
        asked: what to choose over the task.
        settings: where runs and models lie.
        helpers: whether teacher and prompt model are opened too, rather than checked alone.

    Raises:
        NotFound, InvalidInput, EngineError: with what to do.
    """
    settled = _settled(task, asked, settings)
    teacher, prompt_model = asked.teacher or task.teacher, asked.prompt_model or task.prompt_model
    if helpers:
        model = countable(asked.lm) or reference_for(task, settings, asked.model)
        models = Models(
            names_of(model, settings, asked.adapter, **task.generation),
            names_of(teacher, settings),
            names_of(prompt_model, settings),
        )
        check_beginning(settled, models, settings, partial(keep_task, task))
    else:
        for each in (teacher, prompt_model):
            check_model(each, fetched=False)
    opened = partial(open_model, task, settings)
    with (
        closing(task.metric),
        chosen_model(countable(asked.lm), asked.model, asked.adapter, opened) as lm,
        helper(teacher if helpers else None, asked.seed, settings) as teaching,
        helper(prompt_model if helpers else None, asked.seed, settings) as proposing,
    ):
        yield Job.of(
            settled,
            lm=lm.copy(seed=asked.seed),
            owns_model=asked.lm is None,
            teacher=teaching,
            prompt_model=proposing,
        )


def _settled(task: Task, asked: CompileOptions, settings: Settings) -> Settled:
    row, options = optimizer_for(task, asked)
    check_options(asked, settings)
    rival = None
    if asked.against is not None:
        rival = load_rival(asked.against, task.plan, list(task.data.inputs))
    return Settled(
        name=asked.name or task.name,
        plan=task.plan,
        program=task.program(),
        metric=task.metric,
        data=task.data,
        format=asked.format or task.format,
        optimizer=row,
        options=options,
        seed=asked.seed,
        threads=asked.threads or settings.threads,
        against=rival,
        alpha=asked.alpha,
        keep_anyway=asked.keep_anyway,
        adapters=asked.adapters,
        course=asked.course.under(task.budget),
        asked=asked_options(asked),
        task=str(task.folder),
    )


def optimizer_for(task: Task, asked: CompileOptions) -> tuple[Optimizer, dict[str, Any]]:
    """The optimizer of a run and every option's value.

    Raises:
        NotFound: there is no such optimizer.
        InvalidInput: it has no such option, cannot do this task, or the task names another.
    """
    name = asked.optimizer or task.optimizer or DEFAULT
    inherited = task.optimizer_options if name == (task.optimizer or DEFAULT) else {}
    row = optimizer(name) if asked.optimizer else _task_optimizer(name, task)
    _check_inherited(row, task, [key for key in inherited if key not in asked.options])
    settled = row.settle({**inherited, **asked.options})
    row.check(settled, len(task.data.train.examples))
    return row, settled


def _task_optimizer(name: str, task: Task) -> Optimizer:
    try:
        return optimizer(name)
    except NotFound as error:
        raise InvalidInput(f"{_place(task, 'name')}: {error}") from None


def _check_inherited(row: Optimizer, task: Task, keys: Sequence[str]) -> None:
    """Refuse a task's options by their place in its file."""
    for key in keys:
        try:
            row.settle({key: task.optimizer_options[key]})
        except InvalidInput as error:
            raise InvalidInput(f"{_place(task, key)}: {error}") from None


def _place(task: Task, key: str) -> str:
    return task.optimizer_places.get(key, f"task {task.name}")


def check_options(asked: CompileOptions, settings: Settings) -> None:
    """Refuse what no task could be compiled with.

    Raises:
        NotFound: the run to go on with does not exist. InvalidInput: anything else.
    """
    if asked.name is not None:
        check_name(asked.name, "run name")
    if asked.format is not None:
        prompt_format(asked.format)
    if asked.output is not None and asked.output.expanduser().exists():
        raise InvalidInput(
            f"output {asked.output} already exists; choose another place or remove it"
        )
    if not 0.0 < asked.alpha < 1.0:
        raise InvalidInput(f"alpha must lie between 0 and 1, got {asked.alpha:g}; 0.05 is usual")
    if asked.threads is not None and asked.threads < 1:
        raise InvalidInput(f"threads must be at least 1, got {asked.threads}")
    check_course(asked.course, settings)


def check_beginning(
    job: Settled, models: Models, settings: Settings, fill: Callable[[Path], None]
) -> None:
    """Refuse what cannot come to a result, or go on where it ended.

    Args:
        job, models: what is to be done, and on what.
        settings: where runs lie.
        fill: puts the task as it is now into the given folder.

    Raises:
        InvalidInput: the budget ends before a candidate is tried and the result is scored, a
            price is missing, or the run to go on with was a run of something else.
    """
    budget = job.course.budget
    for names in filter(None, (models.task, models.teacher, models.prompt_model)):
        budget.check_price(names)
    test, validation = len(job.data.test.examples), len(job.data.validation.examples)
    trial = validation if job.optimizer.cost(job.options, job.sizes).scored else 0
    calls = max(1, len(job.program.predictors()))
    least = calls * (2 * test + trial)
    if budget.calls is not None and budget.calls < least:
        raise InvalidInput(
            f"a budget of {budget.calls} calls is too small for one trial: scoring before and "
            f"after takes {2 * calls * test}, a candidate {calls * trial}; give at least {least}"
        )
    check_resumed(job, models, settings, fill)


def keep_task(task: Task, place: Path) -> None:
    """Put a task as it is now into a folder."""
    copy_files(dict.fromkeys((*task.files, *task.plan.sources())), task.folder, place)
    if task.signature is not None:
        write_text(place / KEPT_SIGNATURE, to_toml(task.signature))
