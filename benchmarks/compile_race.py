"""A whole compile on our engine beside the same compile over HTTP to `mlx_lm.server` (W6).

    python -m benchmarks.compile_race [--examples 80] [--threads 16] [--json FILE]

BootstrapFewShotWithRandomSearch on the ticket triage example, the embedded model, the same examples
in the same order on both sides, no cache. Says whether both made the same program.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# The first of these loads the BLAS, which comes before anything that imports MLX.
from benchmarks.engine import serving, write_float32
from benchmarks.engine_table import table_head, table_row

import dspy  # isort: skip

from dspy_toolkit.compiler.optimizers import Work, optimizer, shuffled
from dspy_toolkit.config import Settings
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.task import Task, load_task

_TASK = Path(__file__).parents[1] / "examples" / "ticket_triage"
_MAX_TOKENS = 64


def compiled(task: Task, lm: Any, format_: str, examples: int, threads: int) -> tuple[float, Any]:
    """Seconds of a compile, and the program's demonstrations."""
    row = optimizer(task.optimizer or "bootstrap_few_shot_with_random_search")
    work = Work(
        shuffled(list(task.data.train.examples), 0),
        list(task.data.validation.examples)[:examples],
        task.metric,
        threads,
    )
    with dspy.context(lm=lm, adapter=prompt_format(format_)):
        began = time.perf_counter()
        program = row.compile(task.program(), work, row.settle(task.optimizer_options))
        seconds = time.perf_counter() - began
    return seconds, demos(program)


def demos(program: dspy.Module) -> list[list[dict[str, Any]]]:
    """The demonstrations of each predictor as plain values."""
    return [[dict(demo) for demo in each.demos] for each in program.predictors()]


def race(examples: int, threads: int) -> dict[str, Any]:
    """Run both sides; the result as the table of the engine's benchmarks takes it."""
    task = load_task(_TASK)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_float32("embedded", Path(scratch) / "embedded")
        lm = local_lm(
            str(folder),
            max_tokens=_MAX_TOKENS,
            settings=Settings(home=Path(scratch) / "home", cache=False),
        )
        ours, program = compiled(task, lm, "guided", examples, threads)
        lm.engine.close()
        with serving(folder) as address:
            remote = dspy.LM(
                f"openai/{folder}",
                api_base=address,
                api_key="none",
                cache=False,
                num_retries=0,
                temperature=0.0,
                max_tokens=_MAX_TOKENS,
            )
            server, other = compiled(task, remote, "chat_only", examples, threads)
    return {
        "model": "embedded",
        "workload": "w6",
        "ours": ours / 60,
        "server": server / 60,
        "bar": 5.0,
        "concurrent": threads,
        "ratio": server / ours,
        "same_program": program == other,
        "demonstrations": [len(each) for each in program],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=80)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.getLogger("dspy").setLevel(logging.ERROR)
    result = race(arguments.examples, arguments.threads)
    sys.stdout.write("\n".join([*table_head(), table_row(result), ""]))
    sys.stdout.write(f"same program: {result['same_program']}\n")
    if arguments.json:
        kept = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        kept[f"embedded w6 {arguments.threads}"] = result
        arguments.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
