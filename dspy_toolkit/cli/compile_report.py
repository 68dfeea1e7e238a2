"""What `dspy-tk compile` prints of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy_toolkit.cli.output import out_json, say, table
from dspy_toolkit.cli.scores import calls, percent, points, rival, shown, verdict, with_interval


def print_report(report: Mapping[str, Any], json: bool) -> None:
    """The result to stdout; what went wrong, and what to do about it, to stderr."""
    if json:
        from dspy_toolkit.compiler.report import summary

        out_json(summary(report))
    else:
        _show(report)
    _say_failures(report)
    if report["stopped"]:
        say(
            "the budget was spent before the optimizer came to its end; go on with "
            f"`dspy-tk compile --resume {report['run']}` and a larger one"
        )
    if report["artifact"] is None:
        say(
            f"no artifact was made: the result is worse than {rival(report['gate'])}; "
            "give it better data or options, or --keep-anyway"
        )


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
