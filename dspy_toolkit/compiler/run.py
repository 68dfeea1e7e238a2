"""Compile runs: baseline, optimization and final score, recorded from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.compiler.course import asked_again, asked_options
from dspy_toolkit.compiler.job import CompileResult, Job, Models, Settled
from dspy_toolkit.compiler.opening import countable, helper, names_of
from dspy_toolkit.compiler.optimizers import DEFAULT, optimizer
from dspy_toolkit.compiler.options import CompileOptions
from dspy_toolkit.compiler.preparing import (
    check_beginning,
    check_options,
    keep_task,
    task_job,
)
from dspy_toolkit.compiler.rival import load_rival
from dspy_toolkit.compiler.runs import find_run
from dspy_toolkit.compiler.stages import execute
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.data import Data, data_of_examples
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.metrics import Metric, as_metric
from dspy_toolkit.programs.modules import ModulePlan, plan_of
from dspy_toolkit.programs.speaking import silenced
from dspy_toolkit.programs.task import Task, load_task
from dspy_toolkit.store.files import write_json

__all__ = ["CompileOptions", "CompileResult", "compile_program", "compile_task", "resume_run"]


def compile_task(
    task: Task | Path | str,
    options: CompileOptions | None = None,
    settings: Settings | None = None,
) -> CompileResult:
    """Compile a task: score its bare program, optimize it, score the result, save it.

    Both scores are on the test split, which the optimizer never sees. A result shown to be worse
    is reported and not saved.

    Args:
        task: from `load_task`, or its folder.
        options: what to choose over the task.
        settings: where the run lies; read from the environment when left out.

    Raises:
        NotFound, InvalidInput, EngineError, StorageError: with what to do. The run is then
            recorded as failed, and no artifact appears.
        KeyboardInterrupt: the run is recorded as interrupted.
    """
    chosen, asked = settings or load_settings(), options or CompileOptions()
    loaded = task if isinstance(task, Task) else load_task(task, chosen)
    with task_job(loaded, asked, chosen) as job:
        return execute(job, chosen, fill=partial(keep_task, loaded), output=asked.output)


def resume_run(
    run: str, options: CompileOptions | None = None, settings: Settings | None = None
) -> CompileResult:
    """Go on with a run of a task where it ended; no call is made twice.

    Args:
        run: its id.
        options: what may differ from how it was asked: budget, failures allowed, threads, output.
        settings: where the run lies; read from the environment when left out.

    Raises:
        As `compile_task`, and InvalidInput: the run is finished, is being worked on, or what it
        was made of has changed; says what.
    """
    chosen, given = settings or load_settings(), options or CompileOptions()
    found = find_run(chosen, run)
    folder, asked = asked_again(found, replace(given, course=replace(given.course, resume=run)))
    return compile_task(load_task(folder, chosen), asked, chosen)


def compile_program(
    program: dspy.Module,
    *,
    train: Sequence[dspy.Example],
    validation: Sequence[dspy.Example],
    test: Sequence[dspy.Example],
    metric: str | Metric | Callable[..., Any],
    lm: LocalLM,
    options: CompileOptions | None = None,
    settings: Settings | None = None,
) -> CompileResult:
    """Compile a program of your own with examples you have in Python.

    Args:
        program: not compiled yet; it is not changed.
        train, validation, test: examples with their inputs set; no inputs may stand in two.
        metric: name of a metric, or a function `(example, prediction, trace=None) -> float`.
        lm: from `local_lm`, or a `LocalLM` over an engine; it stays open.
        options: as for tasks; without `model`, `adapter` and `lm`, which `lm` stands for.
        settings: where the run lies.

    Raises:
        As `compile_task`. The artifact of a program that is no `Predict` or `ChainOfThought` over
        a signature of the registry loads into a new one: `artifact.program(into=MyProgram())`.
    """
    chosen, asked = settings or load_settings(), options or CompileOptions()
    if (asked.model, asked.adapter, asked.lm) != (None, None, None):
        raise InvalidInput(
            "options name a model, but lm is what the program runs on; "
            "leave out the options' model, adapter and lm"
        )
    splits = {"train": train, "validation": validation, "test": test}
    settled = _settled(program, splits, metric, asked, chosen)
    used, fill = countable(lm), partial(_keep_examples, settled.data)
    teacher, prompt_model = (names_of(each, chosen) for each in (asked.teacher, asked.prompt_model))
    check_beginning(settled, Models(used.names, teacher, prompt_model), chosen, fill)
    with (
        closing(settled.metric),
        helper(asked.teacher, asked.seed, chosen) as teaching,
        helper(asked.prompt_model, asked.seed, chosen) as proposing,
    ):
        job = Job.of(
            settled,
            lm=used.copy(seed=asked.seed),
            owns_model=False,
            teacher=teaching,
            prompt_model=proposing,
        )
        return execute(job, chosen, fill=fill, output=asked.output)


def _settled(
    program: dspy.Module,
    splits: Mapping[str, Sequence[dspy.Example]],
    metric: str | Metric | Callable[..., Any],
    asked: CompileOptions,
    settings: Settings,
) -> Settled:
    row = optimizer(asked.optimizer or DEFAULT)
    options = row.settle(asked.options)
    row.check(options, len(splits["train"]))
    check_options(asked, settings)
    plan = plan_of(program)
    data = _data_of(splits, plan)
    return Settled(
        name=asked.name or "program",
        plan=plan,
        program=silenced(program.reset_copy()),
        metric=as_metric(metric, _compared(data, plan)).located(data.locate),
        data=data,
        format=asked.format or "chat",
        optimizer=row,
        options=options,
        seed=asked.seed,
        threads=asked.threads or settings.threads,
        against=load_rival(asked.against, plan, list(data.inputs)) if asked.against else None,
        alpha=asked.alpha,
        keep_anyway=asked.keep_anyway,
        adapters=asked.adapters,
        course=asked.course,
        asked=asked_options(asked),
    )


def _keep_examples(data: Data, place: Path) -> None:
    for split in (data.train, data.validation, data.test):
        write_json(place / f"{split.name}.json", [row.values for row in split.rows])


def _data_of(splits: Mapping[str, Sequence[dspy.Example]], plan: ModulePlan) -> Data:
    record = plan.signature
    inputs = [each.name for each in record.inputs] if record is not None else None
    return data_of_examples(splits, inputs)


def _compared(data: Data, plan: ModulePlan) -> tuple[str, ...]:
    if plan.signature is not None:
        return tuple(each.name for each in plan.signature.outputs)
    return tuple(data.train.examples[0].labels().keys())
