"""`dspy-tk compile`: optimize a task's program and show what it gained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from dspy_toolkit.cli.dry_run import show_plan
from dspy_toolkit.cli.options import Adapter, Json, Model, Threads
from dspy_toolkit.cli.output import out_json, say, table
from dspy_toolkit.cli.scores import calls, percent, points, rival, shown, verdict, with_interval
from dspy_toolkit.config import load_settings
from dspy_toolkit.errors import InvalidInput

WORSE = 1


def compile_command(
    task: Annotated[
        Path | None, typer.Argument(help="A folder that holds a task.toml; not needed to resume.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="A name of the table; the task's if left out.")
    ] = None,
    model: Model = None,
    adapter: Adapter = None,
    teacher: Annotated[
        str | None, typer.Option(help="A model that makes demonstrations, in the model's place.")
    ] = None,
    prompt_model: Annotated[
        str | None, typer.Option(help="A model that writes instructions, in the model's place.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random in the run.")] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(help="An option of the optimizer, as KEY=VALUE; may be repeated."),
    ] = None,
    threads: Threads = None,
    output: Annotated[
        Path | None, typer.Option(help="Put a copy of the artifact into this new folder.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="An artifact or its run's folder to beat, instead of the bare program."),
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="Chance that the verdict between equal programs is wrong.")
    ] = 0.05,
    keep_anyway: Annotated[
        bool, typer.Option("--keep-anyway", help="Make an artifact even of a worse result.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run where it ended.")
    ] = None,
    fork: Annotated[
        bool,
        typer.Option("--fork", help="With --resume: a new run that takes over the run's calls."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, whatever run of this ended unfinished.")
    ] = False,
    max_calls: Annotated[int | None, typer.Option(help="Most model calls to make.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens to read and write, together.")
    ] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Most minutes to work.")] = None,
    max_money: Annotated[
        float | None, typer.Option(help="Most to spend on models elsewhere, by --price.")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(help="Of a million tokens, as MODEL=INPUT/OUTPUT; may be repeated."),
    ] = None,
    max_failures: Annotated[
        float, typer.Option(help="Share of the last 50 calls that may fail before the run ends.")
    ] = 0.5,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell calls, tokens, time and memory.")
    ] = False,
    probe: Annotated[
        int, typer.Option(min=0, help="Calls a dry run makes to measure the time.")
    ] = 8,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="Speed a dry run counts with instead.")
    ] = None,
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
    from dspy_toolkit.compiler.report import summary
    from dspy_toolkit.compiler.run import CompileOptions, compile_task, resume_run
    from dspy_toolkit.compiler.runs import find_run
    from dspy_toolkit.programs.limits import Budget
    from dspy_toolkit.programs.task import load_task

    if task is None and resume is None:
        raise InvalidInput("name a task's folder, or a run to go on with by --resume RUN")
    loaded = load_task(task) if task is not None else None
    name = loaded.name if loaded else find_run(load_settings(), str(resume)).row.task
    limits = Budget(max_calls, max_tokens, max_minutes, max_money, _prices(price or []))
    options = CompileOptions(
        optimizer=optimizer,
        options=_pairs(option or []),
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
    with nullcontext() if json else live_progress():
        result = compile_task(loaded, options) if loaded else resume_run(str(resume), options)
    report = result.report
    if json:
        out_json(summary(report))
    else:
        _show(report)
    _say_failures(report)
    _say_stop(report)
    if report["artifact"] is None:
        say(
            f"no artifact was made: the result is worse than {rival(report['gate'])}; "
            "give it better data or options, or --keep-anyway"
        )
        raise typer.Exit(WORSE)


def _adapters(task: str, **how: Any) -> Any:
    from dspy_toolkit.training.adapters import AdapterTraining, adapter_trainer

    return adapter_trainer(AdapterTraining(name=task, **how))


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InvalidInput(f"--option {text!r} is no pair; write --option key=value")
        pairs[key.strip()] = value.strip()
    return pairs


def _prices(given: list[str]) -> dict[str, Any]:
    from dspy_toolkit.programs.limits import Price

    prices = {}
    for text in given:
        model, _, pair = text.rpartition("=")
        try:
            into, out_of = map(float, pair.split("/"))
        except ValueError:
            raise InvalidInput(
                f"--price {text!r} is no price; write --price MODEL=INPUT/OUTPUT"
            ) from None
        prices[model.strip()] = Price(into, out_of)
    return prices


def _show(report: Mapping[str, Any]) -> None:
    before, after, gain = report["baseline"], report["compiled"], report["difference"]
    table(
        f"{report['task']} on {report['model']}, {after['n']} held-out test examples",
        ("", "result  (95 % interval)"),
        (
            ("score before", with_interval(percent(before["score"]), before["interval"])),
            ("score after", with_interval(percent(after["score"]), after["interval"])),
            ("difference", with_interval(points(gain["score"]), gain["interval"], signed=True)),
            ("verdict", verdict(report["gate"])),
            ("model calls", calls(report["calls"])),
            ("seconds", f"{report['seconds']:.1f}"),
            ("artifact", shown(report["artifact"]) if report["artifact"] else "none"),
        ),
    )
    if report["artifact"]:
        say(f"use it: dspy-tk run {shown(report['artifact'])} --input '{{...}}'")


def _say_stop(report: Mapping[str, Any]) -> None:
    if report["stopped"]:
        say(
            "the budget was spent before the optimizer came to its end; go on with "
            f"`dspy-tk compile --resume {report['run']}` and a larger one"
        )


def _say_failures(report: Mapping[str, Any]) -> None:
    for phase, name in (("baseline", "before"), ("compiled", "after")):
        failed, of = report["failures"][phase], report[phase]["n"]
        if failed["count"]:
            say(
                f"{name}: {failed['count']} of {of} answers could not be used; "
                f"first: {failed['first']}"
            )
    if report["failures"]["compiled"]["count"]:
        say("name a larger model with --model, or give the task other labels or format = 'guided'")
