"""A head model learnt from a compiled program's answers, beside that program.

    python benchmarks/heads.py examples/ticket_triage

Compiles the task, takes the answers of the compiled program to the train and validation inputs
that reach the metric's threshold, trains heads on them, and scores both on the test split by the
task's metric. Calls a second: the program with as many threads as the settings say and no cache,
the heads one call after the other and in batches.
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
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.compiler.statistics import mean_interval
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.programs.artifact import load_artifact
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.task import Task, load_task
from dspy_toolkit.training import HeadExample, HeadOptions, train_heads


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", type=Path)
    parser.add_argument("--model", default="embedded", help="any model reference")
    parser.add_argument("--steps", type=int, default=120)
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
    artifact = load_artifact(compiled.folder / "artifact")
    lm = artifact.language_model(settings=settings)
    program = artifact.program(lm)
    test = list(task.data.test.examples)
    with dspy.context(adapter=prompt_format(task.format)):
        traces = {
            name: answered(task, program, list(task.data.split(name).examples))
            for name in ("train", "validation")
        }
        began = time.perf_counter()
        scored = evaluate(program, test, task.metric, threads=settings.threads)
        seconds = time.perf_counter() - began
    lm.release()
    assert task.signature is not None
    began = time.perf_counter()
    options = HeadOptions(base=asked.model, steps=asked.steps, seed=asked.seed)
    heads = train_heads(task.signature, traces["train"], traces["validation"], options, settings)
    trained = time.perf_counter() - began
    return {
        "task": task.name,
        "n": len(test),
        "traces": sum(map(len, traces.values())),
        "program": {
            "score": scored.score,
            "interval": scored.interval,
            "calls_per_s": len(test) / seconds,
        },
        "heads": {**judged(task, heads, test), "training_s": trained},
    }


def answered(task: Task, program: dspy.Module, examples: list[dspy.Example]) -> list[HeadExample]:
    """What a program answers, where that is good enough."""
    found = []
    for example in examples:
        try:
            prediction = program(**example.inputs())
        except dspy.DSPyError:
            continue
        if task.metric(example, prediction, []):
            found.append(HeadExample(example.inputs().toDict(), dict(prediction.items())))
    return found


def judged(task: Task, heads: Any, test: list[dspy.Example]) -> dict[str, Any]:
    inputs = [example.inputs().toDict() for example in test]
    heads.predict(inputs[0])
    began = time.perf_counter()
    alone = [heads.predict(each) for each in inputs]
    one_by_one = time.perf_counter() - began
    began = time.perf_counter()
    heads.predict_many(inputs)
    together = time.perf_counter() - began
    scores = [
        float(task.metric(example, dspy.Prediction(**found.outputs)))
        for example, found in zip(test, alone, strict=True)
    ]
    return {
        "score": sum(scores) / len(scores),
        "interval": mean_interval(scores),
        "calls_per_s": len(test) / one_by_one,
        "calls_per_s_in_batches": len(test) / together,
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
