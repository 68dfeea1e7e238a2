"""The three examples on the embedded model, before and after compiling, as a Markdown table.

    python benchmarks/examples.py            # prints the table
    python benchmarks/examples.py --json     # the reports behind it

Each score is on the test split, which no optimizer sees. Runs lie in a home of their own that is
removed at the end, so nothing comes from an earlier run's cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import EngineError
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.task import load_task

ROOT = Path(__file__).parents[1]
TOO_SMALL_MAX_TOKENS = 64
TOO_SMALL_DEMOS = 2
EXAMPLES = ("ticket_triage", "order_extraction", "policy_answers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded", help="any model reference")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=EXAMPLES, help="one of the examples")
    parser.add_argument("--json", action="store_true", help="print the reports")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings({"home": home})
        reports = []
        for name in asked.only or EXAMPLES:
            try:
                reports.append(compiled(name, asked.model, asked.seed, settings))
            except EngineError as error:
                sys.stderr.write(f"{name} does not run on {asked.model}: {error}\n")
    sys.stdout.write(json.dumps(reports, indent=2) if asked.json else as_table(reports))
    sys.stdout.write("\n")


def compiled(name: str, model: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Compile one example as its task says, or briefly where the model is too small for it.

    A model that is too small talks until it is stopped, so there it gets demonstrations without
    a search, and few tokens to answer in.
    """
    task = load_task(ROOT / "examples" / name)
    if model != "embedded" or not task.needs_larger_model:
        return dict(compile_task(task, CompileOptions(model=model, seed=seed), settings).report)
    lm = local_lm(model, settings=settings, max_tokens=TOO_SMALL_MAX_TOKENS)
    options = CompileOptions(
        optimizer="labeled_few_shot", options={"k": TOO_SMALL_DEMOS}, lm=lm, seed=seed
    )
    return dict(compile_task(task, options, settings).report)


def as_table(reports: list[dict[str, Any]]) -> str:
    """Markdown, one row an example."""
    lines = [
        "| example | before | after | difference | model calls | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for report in reports:
        cells = [
            report["task"],
            *(percent(report[key]) for key in ("baseline", "compiled", "difference")),
            report["calls"]["made"],
            round(report["seconds"]),
        ]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def percent(score: dict[str, Any]) -> str:
    """A score in percent with its 95 % interval."""
    low, high = score["interval"]
    return f"{100 * score['score']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    main()
