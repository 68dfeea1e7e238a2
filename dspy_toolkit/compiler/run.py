"""Compile runs: baseline, optimization and final score, recorded from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import dspy

from dspy_toolkit.compiler.course import Course, asked_again, asked_options
from dspy_toolkit.compiler.gate import ALPHA
from dspy_toolkit.compiler.job import CompileResult, Job, execute
from dspy_toolkit.compiler.optimizers import DEFAULT, Optimizer, optimizer
from dspy_toolkit.compiler.rival import load_rival
from dspy_toolkit.compiler.runs import find_run
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.artifact import Artifact
from dspy_toolkit.programs.data import Data, data_of_examples
from dspy_toolkit.programs.finetune_provider import TrainAdapter
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM, chosen_model, local_lm
from dspy_toolkit.programs.metrics import Metric, as_metric
from dspy_toolkit.programs.modules import ModulePlan, plan_of
from dspy_toolkit.programs.speaking import silenced
from dspy_toolkit.programs.task import KEPT_SIGNATURE, Task, load_task
from dspy_toolkit.programs.task_file import check_name
from dspy_toolkit.registry.toml_text import to_toml
from dspy_toolkit.store.files import copy_files, write_json, write_text

EMBEDDED = "embedded"
T = TypeVar("T")


@dataclass(frozen=True)
class CompileOptions:
    """What a run may choose over what its task says.

    Attributes:
        optimizer: name; None takes the task's.
        options: options of the optimizer, laid over the task's where it is the same one.
        model: reference of the model; None takes the task's, then the settings'.
        adapter: folder of a fine-tune laid over the model.
        lm: a language model made in Python, instead of `model`.
        teacher: reference of a model that makes demonstrations, or one made in Python; None takes
            the task's, then the model itself.
        prompt_model: the same for the model that writes instructions, rules and advice.
        adapters: makes a trainer of adapters from its options, for optimizers that fine-tune.
        seed: of everything random in the run.
        threads: examples in work at once; None takes the settings'.
        output: where to put a copy of the artifact; must not exist yet.
        against: an artifact the result has to beat, or its run's folder; None for the bare program.
        alpha: chance that the verdict between equally good programs is wrong, in (0, 1).
        keep_anyway: make an artifact even of a result that is worse.
        name: what the run is called; None takes the task's.
        format: prompt format, see `programs.formats`; None takes the task's, or `chat`.
        course: whether the run begins anew, and how far it may go.
    """

    optimizer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    adapter: Path | None = None
    lm: LocalLM | None = None
    teacher: str | LocalLM | None = None
    prompt_model: str | LocalLM | None = None
    adapters: Callable[..., TrainAdapter] | None = None
    seed: int = 0
    threads: int | None = None
    output: Path | None = None
    against: Path | None = None
    alpha: float = ALPHA
    keep_anyway: bool = False
    name: str | None = None
    format: str | None = None
    course: Course = field(default_factory=Course)


def compile_task(
    task: Task, options: CompileOptions | None = None, settings: Settings | None = None
) -> CompileResult:
    """Compile a task: score its bare program, optimize it, score the result, save it.

    Both scores are on the test split, which the optimizer never sees. A result shown to be worse
    is reported and not saved.

    Args:
        task: from `load_task`.
        options: what to choose over the task.
        settings: where the run lies; read from the environment when left out.

    Raises:
        NotFound, InvalidInput, EngineError, StorageError: with what to do. The run is then
            recorded as failed, and no artifact appears.
        KeyboardInterrupt: the run is recorded as interrupted.
    """
    chosen, asked = settings or load_settings(), options or CompileOptions()
    row, settled = optimizer_for(task, asked)
    _check(asked)
    rival = _rival(asked, task.plan, list(task.data.inputs))
    opened = partial(open_model, task, chosen)
    with (
        closing(task.metric),
        chosen_model(_countable(asked.lm), asked.model, asked.adapter, opened) as lm,
        helper(asked.teacher or task.teacher, asked.seed, chosen) as teacher,
        helper(asked.prompt_model or task.prompt_model, asked.seed, chosen) as prompt_model,
    ):
        job = Job(
            name=asked.name or task.name,
            plan=task.plan,
            program=task.program(),
            metric=task.metric,
            data=task.data,
            format=asked.format or task.format,
            optimizer=row,
            options=settled,
            lm=lm.copy(seed=asked.seed),
            owns_model=asked.lm is None,
            seed=asked.seed,
            threads=asked.threads or chosen.threads,
            against=rival,
            alpha=asked.alpha,
            keep_anyway=asked.keep_anyway,
            teacher=teacher,
            prompt_model=prompt_model,
            adapters=asked.adapters,
            course=asked.course.under(task.budget),
            asked=asked_options(asked),
            task=str(task.folder),
        )
        return execute(job, chosen, fill=lambda place: _copy_task(task, place), output=asked.output)


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


def optimizer_for(task: Task, asked: CompileOptions) -> tuple[Optimizer, dict[str, Any]]:
    """The optimizer of a run and every option's value.

    Raises:
        InvalidInput: there is no such optimizer or option, or it cannot do this task.
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
    except InvalidInput as error:
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
    row = optimizer(asked.optimizer or DEFAULT)
    settled = row.settle(asked.options)
    row.check(settled, len(train))
    _check(asked)
    used = _countable(lm)
    plan = plan_of(program)
    data = _data_of({"train": train, "validation": validation, "test": test}, plan)
    job = Job(
        name=asked.name or "program",
        plan=plan,
        program=silenced(program.reset_copy()),
        metric=as_metric(metric, _compared(data, plan)).located(data.locate),
        data=data,
        format=asked.format or "chat",
        optimizer=row,
        options=settled,
        lm=used.copy(seed=asked.seed),
        owns_model=False,
        seed=asked.seed,
        threads=asked.threads or chosen.threads,
        against=_rival(asked, plan, list(data.inputs)),
        alpha=asked.alpha,
        keep_anyway=asked.keep_anyway,
        adapters=asked.adapters,
        course=asked.course,
        asked=asked_options(asked),
    )

    def fill(place: Path) -> None:
        for split in (data.train, data.validation, data.test):
            write_json(place / f"{split.name}.json", [row.values for row in split.rows])

    with (
        closing(job.metric),
        helper(asked.teacher, asked.seed, chosen) as teacher,
        helper(asked.prompt_model, asked.seed, chosen) as prompt_model,
    ):
        whole = replace(job, teacher=teacher, prompt_model=prompt_model)
        return execute(whole, chosen, fill=fill, output=asked.output)


def open_model(
    task: Task, settings: Settings, model: str | None = None, adapter: Path | None = None
) -> LocalLM:
    """Open the model a task is to run on: the one named, the task's, or the settings'.

    Raises:
        InvalidInput: the task says the embedded model is too small, and no other is named.
        NotFound, EngineError: the model cannot be opened.
    """
    reference = model or task.model or settings.model
    if model is None and reference == EMBEDDED and task.needs_larger_model:
        raise InvalidInput(
            f"task {task.name} needs a larger model than the embedded one: "
            f"{task.needs_larger_model}; name one with --model"
        )
    return local_lm(reference, adapter=adapter, settings=settings, **task.generation)


@contextmanager
def helper(model: str | LocalLM | None, seed: int, settings: Settings) -> Iterator[LocalLM | None]:
    """A teacher or prompt model: opened for the block, or as it was given."""
    if not isinstance(model, str):
        yield None if model is None else _countable(model).copy(seed=seed)
        return
    opened = local_lm(model, seed=seed, settings=settings)
    try:
        yield opened
    finally:
        opened.release()


def _countable(lm: T) -> T:
    if lm is not None and not isinstance(lm, LocalLM):
        raise InvalidInput(
            f"lm is a {type(lm).__name__}, whose calls cannot be counted; give local_lm(...), or "
            "LocalLM('provider/model', engine='auto') for a model elsewhere"
        )
    return lm


def _check(asked: CompileOptions) -> None:
    if asked.name is not None:
        check_name(asked.name, "run name")
    if asked.format is not None:
        prompt_format(asked.format)
    if asked.output is not None and asked.output.exists():
        raise InvalidInput(
            f"output {asked.output} already exists; choose another place or remove it"
        )
    if not 0.0 < asked.alpha < 1.0:
        raise InvalidInput(f"alpha must lie between 0 and 1, got {asked.alpha:g}; 0.05 is usual")


def _rival(asked: CompileOptions, plan: ModulePlan, inputs: list[str]) -> Artifact | None:
    return load_rival(asked.against, plan, inputs) if asked.against else None


def _copy_task(task: Task, place: Path) -> None:
    copy_files(dict.fromkeys((*task.files, *task.plan.sources())), task.folder, place)
    if task.signature is not None:
        write_text(place / KEPT_SIGNATURE, to_toml(task.signature))


def _data_of(splits: Mapping[str, Sequence[dspy.Example]], plan: ModulePlan) -> Data:
    record = plan.signature
    inputs = [each.name for each in record.inputs] if record is not None else None
    return data_of_examples(splits, inputs)


def _compared(data: Data, plan: ModulePlan) -> tuple[str, ...]:
    if plan.signature is not None:
        return tuple(each.name for each in plan.signature.outputs)
    return tuple(data.train.examples[0].labels().keys())
