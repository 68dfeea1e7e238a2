"""`dspy-tk runs`: look at compile runs, compare them, send one, remove some."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dspy_toolkit.cli.options import Threads
from dspy_toolkit.cli.output import out, out_json, say, table
from dspy_toolkit.cli.scores import calls, percent, points, shown, verdict, with_interval
from dspy_toolkit.config import load_settings

if TYPE_CHECKING:
    from dspy_toolkit.compiler.candidate_files import CandidateRecord
    from dspy_toolkit.compiler.outcomes import ExampleScore
    from dspy_toolkit.compiler.runs import Run

app = typer.Typer(help="Look at, compare, export and delete runs.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, see `dspy-tk runs list`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
First = Annotated[str, typer.Argument(metavar="RUN", help="Id of a run.")]
Second = Annotated[str, typer.Argument(metavar="OTHER", help="Id of the run to hold beside it.")]
_FAILURES_SHOWN = 5
_SHORT = 24
_DIGEST = re.compile("[0-9a-f]{64}")
_CANDIDATES_SHOWN = 24


@app.command("list")
def list_command(
    limit: Annotated[int, typer.Option(min=1, help="How many runs at most.")] = 50,
    task: Annotated[str | None, typer.Option(help="Only runs of this task.")] = None,
    json: Json = False,
) -> None:
    """List runs, newest first.

    Example: dspy-tk runs list --limit 10
    """
    from dspy_toolkit.compiler.runs import list_runs

    facts = [run.facts() for run in list_runs(load_settings(), limit, task)]
    if json:
        out_json({"runs": facts})
        return
    if not facts:
        which = f" of task {task!r}" if task else ""
        say(f"no run{which}; `dspy-tk compile TASK` makes one")
        return
    table("", ("run", "came to", "before", "after", "calls"), map(_row, facts), whole=True)
    if len(facts) == limit:
        say(f"the newest {limit}; more with --limit")


@app.command()
def show(
    run: Id,
    candidate: Annotated[
        int | None, typer.Option(min=1, help="Show what this candidate was, and how it did.")
    ] = None,
    json: Json = False,
) -> None:
    """Show one run: its result, what failed, and where its files are.

    Example: dspy-tk runs show 20260101-120000-ticket_triage-0a1b --candidate 3
    """
    from dspy_toolkit.compiler.candidate_files import read_candidate
    from dspy_toolkit.compiler.outcomes import read_outcomes
    from dspy_toolkit.compiler.runs import BUDGET, find_run

    found = find_run(load_settings(), run)
    if candidate is not None:
        _show_candidate(read_candidate(found.folder, candidate), json)
        return
    failures = {
        phase: [each for each in scored if each.error is not None]
        for phase, scored in read_outcomes(found.folder).items()
    }
    if json:
        facts = {**found.facts(), "folder": str(found.folder), "report": found.report or None}
        out_json({**facts, "failures": [vars(each) for each in _all(failures)]})
        return
    table(run, ("", "run"), _story(found))
    # As lines of their own, which no terminal breaks where they are to be copied.
    out(f"folder  {shown(found.folder) if found.folder.is_dir() else 'removed'}")
    if found.plot.is_file():
        out(f"plot    {shown(found.plot)}")
    for phase, failed in failures.items():
        if failed:
            out(f"{phase}: {len(failed)} answers could not be used")
            for each in failed[:_FAILURES_SHOWN]:
                out(f"  {each.example}: {each.error}")
            if len(failed) > _FAILURES_SHOWN:
                out(f"  and {len(failed) - _FAILURES_SHOWN} more, see examples.jsonl")
    if found.resumable:
        larger = " and a larger budget" if found.status == BUDGET else ""
        say(f"go on with it: dspy-tk compile --resume {run}{larger}")


@app.command()
def diff(run: First, other: Second, json: Json = False) -> None:
    """Show in which settings two runs differ.

    Example: dspy-tk runs diff 20260101-120000-triage-0a1b 20260102-090000-triage-77fe
    """
    from dspy_toolkit.compiler.run_comparison import differing_settings
    from dspy_toolkit.compiler.runs import find_run

    settings = load_settings()
    first, second = find_run(settings, run), find_run(settings, other)
    found = differing_settings(first, second)
    if json:
        out_json({"runs": [run, other], "settings": {key: list(found[key]) for key in found}})
        return
    if found:
        # Ids are longer than half a line, so the columns have short names.
        out(f"first   {run}\nsecond  {other}")
        table("", ("setting", "first", "second"), ((k, *map(_short, found[k])) for k in found))
    else:
        say("the two runs have the same settings")
    if not (first.report and second.report):
        say("one of them has no report, so only what was settled before they began was compared")


@app.command()
def compare(
    run: First,
    other: Second,
    alpha: Annotated[
        float, typer.Option(min=1e-9, max=0.999, help="Chance that a verdict is wrong.")
    ] = 0.05,
    json: Json = False,
) -> None:
    """Say whether the result of the second run is better, on the same test examples.

    Example: dspy-tk runs compare 20260101-120000-triage-0a1b 20260102-090000-triage-77fe
    """
    from dspy_toolkit.compiler.run_comparison import compare_runs
    from dspy_toolkit.compiler.runs import find_run

    settings = load_settings()
    pair = find_run(settings, run), find_run(settings, other)
    result = compare_runs(*pair, alpha)
    if json:
        scores = [each.report["compiled"] for each in pair]
        out_json({"runs": [run, other], "scores": scores, **result.to_dict()})
        return
    gain = points(result.difference)
    if result.interval is not None:
        gain = with_interval(gain, result.interval, signed=True)
    rows = [(each.row.id, _score(each.report, "compiled")) for each in pair]
    rows.append(("difference", gain))
    if result.judgement is not None:
        rows.append(("verdict", verdict({**result.judgement.to_dict(), "against": run})))
    table("", ("", "score  (95 % interval)"), rows)
    if result.unpaired:
        say(f"no paired comparison: {result.unpaired}")


@app.command()
def verify(
    run: Id,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Score a run's artifact again and say whether it does what its report says.

    The exit code is 1 where an example scores otherwise.

    Example: dspy-tk runs verify 20260101-120000-ticket_triage-0a1b
    """
    from dspy_toolkit.cli.progress import live_progress
    from dspy_toolkit.compiler.runs import find_run
    from dspy_toolkit.compiler.verify import verify_run

    settings = load_settings()
    with nullcontext() if json else live_progress():
        found = verify_run(find_run(settings, run), threads=threads, settings=settings)
    if json:
        out_json(found.to_dict())
    else:
        rows = [
            ("reported", percent(found.reported)),
            ("found", percent(found.found)),
            (
                "difference",
                with_interval(points(found.found - found.reported), found.interval, signed=True),
            ),
            ("changed", f"{len(found.changed)} of {found.n} examples"),
            ("verdict", "agrees" if found.agrees else "does not agree"),
        ]
        table(run, ("", "result"), rows)
        for example in found.changed[:_FAILURES_SHOWN]:
            say(f"scores otherwise: {example}")
        for name, (then, now) in found.environment.items():
            say(f"{name}: {(then or 'none')[:_SHORT]} then, {(now or 'none')[:_SHORT]} now")
    if not found.agrees:
        raise typer.Exit(1)


@app.command()
def export(
    run: Id,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new file; RUN.zip if left out.")
    ] = None,
    to_mlflow: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Send it to this MLflow server or database instead."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a run and all its files as one zip file with a manifest, or send it to MLflow.

    What an MLflow server does not take now is sent with the next export to it.

    Example: dspy-tk runs export 20260101-120000-ticket_triage-0a1b --output run.zip
    """
    if to_mlflow is not None:
        _send(run, to_mlflow, json)
        return
    from dspy_toolkit.compiler.run_export import export_run
    from dspy_toolkit.compiler.runs import find_run

    target = (output or Path(f"{run}.zip")).expanduser().absolute()
    export_run(find_run(load_settings(), run), target)
    if json:
        out_json({"run": run, "file": str(target), "bytes": target.stat().st_size})
    else:
        out(str(target))


@app.command()
def delete(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids of runs.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete runs with all their files, artifacts included.

    Example: dspy-tk runs delete 20260101-120000-ticket_triage-0a1b
    """
    from dspy_toolkit.compiler.runs import delete_runs, find_run

    settings = load_settings()
    if not yes:
        folders = [shown(find_run(settings, run).folder) for run in runs]
        typer.confirm(f"Delete {', '.join(folders)}?", abort=True, err=True)
    delete_runs(settings, runs)
    if json:
        out_json({"deleted": runs})
    else:
        say(f"deleted {len(runs)} run{'s' if len(runs) > 1 else ''}")


def _send(run: str, uri: str, json: bool) -> None:
    from dspy_toolkit.compiler.mlflow_export import export_to_mlflow

    sent = export_to_mlflow(run, uri, load_settings())
    if json:
        out_json(vars(sent))
        return
    for each in sent.runs:
        out(f"sent {each}")
    if sent.problem:
        say(f"{len(sent.waiting)} wait for the next export: {sent.problem}")


def _show_candidate(row: CandidateRecord, json: bool) -> None:
    if json:
        out_json(vars(row))
        return
    table("", ("", "candidate"), (("number", row.candidate), ("score", percent(row.score))))
    for step in row.prompts:
        out(f"{step['step']}, {len(step['demos'])} demonstrations:")
        out(f"  {step['instructions']}")
        for demo in step["demos"]:
            out(f"  - {demo}")
        for field, how in step.get("decisions", {}).items():
            out(f"  {field}: {how}")
    lines = ((each["example"], f"{each['score']:g}", each["error"] or "") for each in row.examples)
    table("", ("example", "score", "error"), lines)


def _row(facts: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        facts["run"],
        _outcome(facts),
        *("" if facts[key] is None else percent(facts[key]) for key in ("baseline", "compiled")),
        str(facts["calls"]["made"]) if facts["calls"] else "",
    )


def _outcome(facts: Mapping[str, Any]) -> str:
    """The verdict of a finished run, the status of another; short, so that a row is one line."""
    if facts["status"] == "finished" and facts["verdict"]:
        return str(facts["verdict"]).removesuffix(" better")
    return str(facts["status"])


def _story(run: Run) -> Iterable[tuple[str, str]]:
    facts, report = run.facts(), run.report
    yield from ((key, str(facts[key])) for key in ("task", "status", "started_at"))
    if run.row.error:
        yield "error", run.row.error
    yield from ((key, str(facts[key])) for key in ("optimizer", "model", "seed"))
    for key, value in report.get("optimizer_options", {}).items():
        yield f"  {key}", _plain(value)
    if "compiled" in report:
        yield "score before", _score(report, "baseline")
        yield "score after", _score(report, "compiled")
        gain = report["difference"]
        yield "difference", with_interval(points(gain["score"]), gain["interval"], signed=True)
    if "gate" in report:
        yield "verdict", verdict(report["gate"])
    if report.get("candidates"):
        yield "candidates", _candidates(report["candidates"])
    if facts["calls"]:
        yield "model calls", calls(facts["calls"])
    if facts["seconds"] is not None:
        yield "seconds", f"{facts['seconds']:.1f}"


def _candidates(scores: Sequence[float]) -> str:
    """All of them, or how many and from where to where."""
    if len(scores) <= _CANDIDATES_SHOWN:
        return ", ".join(map(percent, scores))
    return f"{len(scores)}, from {percent(min(scores))} to {percent(max(scores))}"


def _score(report: Mapping[str, Any], key: str) -> str:
    return with_interval(percent(report[key]["score"]), report[key]["interval"])


def _plain(value: object) -> str:
    return "off" if value is None else str(value)


def _short(value: object) -> str:
    """A value as text; of a digest, which nobody reads, the beginning."""
    text = _plain(value)
    return f"{text[:12]}..." if _DIGEST.fullmatch(text) else text


def _all(failures: Mapping[str, list[ExampleScore]]) -> Iterable[ExampleScore]:
    return (each for failed in failures.values() for each in failed)
