"""A head model learnt from a compiled program's answers, beside that program.

    python benchmarks/heads.py examples/ticket_triage

Compiles the task, takes the answers of the compiled program to the train and validation inputs
that reach the metric's threshold, trains heads on them, and scores both on the test split by the
task's metric. Calls a second: the program with as many threads as the settings say, its model
opened and no cache; the heads one call after the other and in batches.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dspy_toolkit.compiler.heads import lessons, score_heads
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.compiler.scoring import score_path
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.programs.artifact import load_artifact
from dspy_toolkit.programs.task import Task, load_task
from dspy_toolkit.training import HeadOptions, examples_of, train_heads


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", type=Path)
    parser.add_argument("--model", default="embedded", help="any model reference")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    task = load_task(asked.task)
    with tempfile.TemporaryDirectory() as home:
        settings = dataclasses.replace(load_settings({"home": home}), cache=False)
        facts = compare(task, asked, settings)
    sys.stdout.write(json.dumps(facts, indent=2) if asked.json else as_table(facts))
    sys.stdout.write("\n")


def compare(task: Task, asked: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    compiled = compile_task(
        task, CompileOptions(model=asked.model, seed=asked.seed, keep_anyway=True), settings
    )
    lm = load_artifact(compiled.folder / "artifact").language_model(settings=settings)
    program = score_path(compiled.folder, lm=lm, settings=settings)
    lm.release()
    rows = lessons(task, compiled.folder, settings)
    train, validation = (
        examples_of(rows.signature, each) for each in (rows.train, rows.validation)
    )
    options = HeadOptions(base=asked.model, steps=asked.steps, seed=asked.seed)
    began = time.perf_counter()
    heads = train_heads(rows.signature, train, validation, options, settings)
    trained = time.perf_counter() - began
    scored = score_heads(task, lambda each: [found.outputs for found in heads.predict_many(each)])
    return {
        "task": task.name,
        "n": scored.n,
        "traces": len(train) + len(validation),
        "program": {
            "score": program.score,
            "interval": program.interval,
            "calls_per_s": program.n / program.seconds,
        },
        "heads": {**asdict(scored), "training_s": trained},
    }


def as_table(facts: dict[str, Any]) -> str:
    program, heads = facts["program"], facts["heads"]
    rows = [
        ("compiled program", program, f"{program['calls_per_s']:.1f}"),
        (
            f"heads from {facts['traces']} answers",
            heads,
            f"{heads['calls_per_s']:.0f}, in batches {heads['calls_per_s_in_batches']:.0f}",
        ),
    ]
    lines = [f"| {facts['task']} | score | 95 % interval | calls a second |", "|---|---|---|---|"]
    for name, each, speed in rows:
        low, high = each["interval"]
        score, between = f"{100 * each['score']:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}"
        lines.append(f"| {name} | {score} | {between} | {speed} |")
    lines.append(f"\nThe heads were trained in {heads['training_s']:.0f} s.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
