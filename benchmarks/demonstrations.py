"""The three examples on one model with 0 and 8 labelled demonstrations, as a Markdown table.

    python benchmarks/demonstrations.py                     # the embedded model
    python benchmarks/demonstrations.py --model FOLDER --json

Demonstrations are drawn once from the training split. Each score is on the test split by the
task's metric; calls a second with as many threads as the settings say and no cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.compiler.evaluation import evaluate
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.source import find_source
from dspy_toolkit.errors import EngineError
from dspy_toolkit.programs.cache import under
from dspy_toolkit.programs.calls import CallTally, counted
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.task import Task, load_task

ROOT = Path(__file__).parents[1]
EXAMPLES = ("ticket_triage", "order_extraction", "policy_answers")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="embedded", help="any model reference")
    parser.add_argument("--demos", type=int, nargs="+", default=[0, 8])
    parser.add_argument("--only", action="append", choices=EXAMPLES, help="one of the examples")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest answer")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        settings = dataclasses.replace(load_settings({"home": home}), cache=False)
        lm = local_lm(asked.model, settings=settings, max_tokens=asked.max_tokens)
        rows = [
            scored(load_task(ROOT / "examples" / name), demos, lm, settings)
            for name in asked.only or EXAMPLES
            for demos in asked.demos
        ]
        lm.release()
    size = sum(
        file.stat().st_size for file in find_source(asked.model).folder.glob("*.safetensors")
    )
    facts = {"model": asked.model, "weights_bytes": size, "rows": rows}
    sys.stdout.write(json.dumps(facts, indent=2) if asked.json else as_table(facts))
    sys.stdout.write("\n")


def scored(task: Task, demos: int, lm: LocalLM, settings: Settings) -> dict[str, Any]:
    """One cell of the table."""
    test = list(task.data.test.examples)
    student = dspy.LabeledFewShot(k=demos).compile(
        task.program(), trainset=list(task.data.train.examples), sample=demos > 0
    )
    row: dict[str, Any] = {"task": task.name, "demonstrations": demos, "n": len(test)}
    with (
        dspy.context(lm=lm, adapter=prompt_format(task.format)),
        counted(CallTally()) as tally,
        under(settings),
    ):
        began = time.perf_counter()
        try:
            found = evaluate(student, test, task.metric, threads=settings.threads)
        except EngineError as error:
            return {**row, "error": " ".join(str(error).split())}
        seconds = time.perf_counter() - began
    return {
        **row,
        "score": found.score,
        "interval": found.interval,
        "unusable": len(found.failures),
        "calls_per_s": tally.calls.made / seconds,
    }


def as_table(facts: dict[str, Any]) -> str:
    lines = [
        "| task | demonstrations | score, % | unusable answers | calls a second |",
        "|---|---|---|---|---|",
    ]
    reasons = []
    for row in facts["rows"]:
        start = f"| {row['task']} | {row['demonstrations']} |"
        if "error" in row:
            lines.append(f"{start} does not run | | |")
            reason = row["error"].partition(" To fix:")[0]
            reasons.append(f"{row['task']} with {row['demonstrations']}: {reason}")
            continue
        low, high = row["interval"]
        score = f"{100 * row['score']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        lines.append(
            f"{start} {score} | {row['unusable']} of {row['n']} | {row['calls_per_s']:.1f} |"
        )
    lines.append(f"\n{facts['model']}: {facts['weights_bytes'] / 1e6:.1f} MB of weights.")
    return "\n".join([*lines, *reasons])


if __name__ == "__main__":
    main()
