"""`dspy-tk compile`: optimize a task's program and show what it gained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import typer

from dspy_toolkit.cli import compile_options as given
from dspy_toolkit.cli.compile_report import print_report
from dspy_toolkit.cli.dry_run import show_plan
from dspy_toolkit.cli.options import Adapter, Json, Model, Threads
from dspy_toolkit.cli.output import say
from dspy_toolkit.config import load_settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.events import Event, RunStarted, subscribed

WORSE = 1


def compile_command(
    task: given.Task = None,
    optimizer: given.Optimizer = None,
    model: Model = None,
    adapter: Adapter = None,
    teacher: given.Teacher = None,
    prompt_model: given.PromptModel = None,
    seed: given.Seed = 0,
    option: given.Pairs = None,
    threads: Threads = None,
    output: given.Output = None,
    against: given.Against = None,
    alpha: given.Alpha = 0.05,
    keep_anyway: given.KeepAnyway = False,
    resume: given.Resume = None,
    fork: given.Fork = False,
    fresh: given.Fresh = False,
    max_calls: given.MaxCalls = None,
    max_tokens: given.MaxTokens = None,
    max_minutes: given.MaxMinutes = None,
    max_money: given.MaxMoney = None,
    price: given.Prices = None,
    max_failures: given.MaxFailures = 0.5,
    dry_run: given.DryRun = False,
    probe: given.Probe = 8,
    tokens_per_second: given.Rate = None,
    json: Json = False,
) -> None:
    """Optimize a task's program and score it before and after on held-out test examples.

    A result that is shown to be worse becomes no artifact, and the exit code is 1.

    `dspy-tk optimizers list` shows the optimizers. A model is embedded, a folder, a hub id, or
    remote/MODEL@URL for an OpenAI-compatible endpoint, with ?key_env=NAME for its key.

    A run that died goes on when the same command is given again, or --resume; no model call is
    made twice. A budget that is spent keeps the best candidate so far, and can be raised later.

    Example: dspy-tk compile examples/ticket_triage --seed 1
    """
    from dspy_toolkit.cli.progress import live_progress
    from dspy_toolkit.compiler.course import Course
    from dspy_toolkit.compiler.run import CompileOptions, compile_task, resume_run
    from dspy_toolkit.compiler.runs import find_run
    from dspy_toolkit.programs.limits import Budget
    from dspy_toolkit.programs.task import load_task

    if task is None and resume is None:
        raise InvalidInput("name a task's folder, or a run to go on with by --resume RUN")
    loaded = load_task(task) if task is not None else None
    name = loaded.name if loaded else find_run(load_settings(), str(resume)).row.task
    limits = Budget(max_calls, max_tokens, max_minutes, max_money, given.prices(price))
    options = CompileOptions(
        optimizer=optimizer,
        options=given.pairs(option),
        model=model,
        adapter=adapter,
        teacher=teacher,
        prompt_model=prompt_model,
        adapters=partial(_adapters, name),
        seed=seed,
        threads=threads,
        output=output,
        against=against,
        alpha=alpha,
        keep_anyway=keep_anyway,
        course=Course(resume, fork, fresh, limits, max_failures),
    )
    if dry_run:
        if loaded is None:
            raise InvalidInput("a dry run needs a task; --resume has none to tell of")
        show_plan(loaded, options, probe, tokens_per_second, json)
        return
    with _way_back(), nullcontext() if json else live_progress():
        result = compile_task(loaded, options) if loaded else resume_run(str(resume), options)
    print_report(result.report, json)
    if result.artifact is None:
        raise typer.Exit(WORSE)


@contextmanager
def _way_back() -> Iterator[None]:
    """Say how to go on with a run that Ctrl-C ends."""
    begun: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, RunStarted):
            begun.append(event.run)

    with subscribed(note):
        try:
            yield
        except KeyboardInterrupt:
            for run in begun:
                say(f"go on with: dspy-tk compile --resume {run}")
            raise


def _adapters(task: str, **how: Any) -> Any:
    from dspy_toolkit.training.adapters import AdapterTraining, adapter_trainer

    return adapter_trainer(AdapterTraining(name=task, **how))
