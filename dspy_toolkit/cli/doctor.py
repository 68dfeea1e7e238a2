"""`dspy-tk doctor`: is this machine ready, and what to do where it is not."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from dspy_toolkit.cli.output import out_json, say, table


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look for what keeps models from running well here, and say how to mend it.

    Ends with exit code 1 when there is a problem, 0 when there is none.

    Example: dspy-tk doctor
    """
    from dspy_toolkit.engine.checkup import check_machine

    if not json:
        say("looking and measuring; this takes a few seconds")
    findings = check_machine()
    problems = sum(finding.level == "problem" for finding in findings)
    if json:
        found = [dataclasses.asdict(finding) for finding in findings]
        out_json({"ok": problems == 0, "findings": found})
    else:
        rows = [
            (finding.subject, finding.level, "\n".join(filter(None, (finding.found, finding.fix))))
            for finding in findings
        ]
        table("", ("what", "state", "found, and what to do"), rows)
        say("no problem found" if problems == 0 else f"problems found: {problems}")
    if problems:
        raise typer.Exit(1)
