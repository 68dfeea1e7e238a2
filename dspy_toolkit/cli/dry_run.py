"""`dspy-tk compile --dry-run`: what a run would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspy_toolkit.cli.output import out_json, say, table

if TYPE_CHECKING:
    from dspy_toolkit.compiler.plan import Plan, Step
    from dspy_toolkit.compiler.run import CompileOptions
    from dspy_toolkit.programs.task import Task


def show_plan(
    task: Task,
    options: CompileOptions,
    probe: int,
    tokens_per_second: float | None,
    json: bool,
) -> None:
    """Make the plan of a run and print it."""
    from dspy_toolkit.compiler.plan import plan_task

    plan = plan_task(task, options, probe=probe, tokens_per_second=tokens_per_second)
    if json:
        out_json(plan.to_dict())
        return
    table(
        f"{plan.task} with {plan.optimizer} on {plan.model}, not run",
        ("phase", "calls", "prompt tokens", "answer tokens", "time"),
        map(_row, (*plan.steps, plan.total)),
    )
    _remarks(plan)


def _row(step: Step) -> tuple[str, str, str, str, str]:
    answers = "unknown" if step.answer_tokens is None else f"{step.answer_tokens:,}"
    return (
        step.phase,
        f"{step.calls:,}",
        f"{step.prompt_tokens:,}",
        answers,
        "unknown" if step.seconds is None else _duration(step.seconds),
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _remarks(plan: Plan) -> None:
    for name, model in (("teacher", plan.teacher), ("prompt model", plan.prompt_model)):
        if model is not None:
            say(f"{name}: {model}")
    if plan.memory_bytes is not None:
        say(f"memory: about {plan.memory_bytes / 1e9:.2f} GB for weights and running calls")
    if plan.probe_calls:
        say(f"time measured on {plan.probe_calls} calls")
    for note in plan.notes:
        say(note)
