"""Every prompt format on the examples: what it costs, and what its answers are worth.

    python benchmarks/formats.py [--examples 60] [--demos 4] [--model embedded] [--json FILE]

One model, the same demonstrations and the same test examples for every format, without a cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import dspy

sys.path.insert(0, str(Path(__file__).parents[1]))

from dspy_toolkit.compiler.evaluation import evaluate
from dspy_toolkit.programs.formats import FORMATS, prompt_format
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.task import load_task

ROOT = Path(__file__).parents[1]
TASKS = ("ticket_triage", "order_extraction", "policy_answers")


def measure(lm: LocalLM, task: str, form: str, count: int, demos: int) -> dict[str, Any]:
    """Score, unreadable answers and time of one format on one task."""
    loaded = load_task(ROOT / "examples" / task)
    program = dspy.LabeledFewShot(k=demos).compile(
        loaded.program(), trainset=list(loaded.data.train.examples)
    )
    examples = list(loaded.data.test.examples)[:count]
    before = lm.engine.stats()
    with dspy.context(lm=lm, adapter=prompt_format(form)):
        evaluate(program, examples[:1], loaded.metric, threads=1)
        began = time.perf_counter()
        found = evaluate(program, examples, loaded.metric, threads=16)
        seconds = time.perf_counter() - began
    after = lm.engine.stats()
    unread = sum(outcome.error is not None for outcome in found.outcomes)
    return {
        "task": task,
        "format": form,
        "score": round(sum(each.score for each in found.outcomes) / len(examples), 4),
        "unread": unread,
        "examples": len(examples),
        "seconds": round(seconds, 2),
        "decoded_per_answer": round((after.decoded - before.decoded) / (len(examples) + 1), 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--demos", type=int, default=4)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    lm = local_lm(chosen.model, max_tokens=200).copy(cache=False)
    rows = []
    for task in TASKS:
        for form in FORMATS:
            row = measure(lm, task, form, chosen.examples, chosen.demos)
            rows.append(row)
            sys.stdout.write(
                "{task:18} {format:12} score {score:6.3f}  unread {unread:3d}/{examples}  "
                "{seconds:7.2f} s  {decoded_per_answer:6.1f} tokens drawn\n".format(**row)
            )
            sys.stdout.flush()
    lm.release()
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
