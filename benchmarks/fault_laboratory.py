"""The fault laboratory: thousands of calls through each mix of faults, and what became of them.

    python benchmarks/fault_laboratory.py [--calls 10000] [--mix NAME] [--out FOLDER]

Half of the calls come from threads, half from coroutines; a third is streamed; limits are on
tokens for two thirds, on the whole call for one. Writes `fault_laboratory.json` and
`fault_laboratory.md`, and exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import platform
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil

from dspy_toolkit.store.files import write_json, write_text
from tests.resilience.laboratory.children import CHILD_MIXES, CHILD_PACE, ChildMix, run_child
from tests.resilience.laboratory.trial import BUDGET, CALLERS, MIXES, Mix, Pace, run

PACE = Pace(token_s=0.15, deadline_s=0.8)
# Beyond what the machine itself is late: taking an answer apart and handing it over.
ALLOWED_LATE_S = 0.25
# How often a child is harmed in the course of its calls.
HARMS = 10


def measured(mix: Mix | ChildMix, calls: int) -> dict[str, Any]:
    process = psutil.Process()
    before_mib = process.memory_info().rss / 2**20
    if isinstance(mix, Mix):
        found = run(mix, calls, PACE)
    else:
        found = run_child(mix, calls, every=max(calls // HARMS, 1))
    gc.collect()
    promises = {
        "every call ended once and rightly": not found.wrong,
        "no call was lost": found.answers.total() + found.errors.total() == calls,
        "the budget of attempts held": found.most_attempts <= BUDGET,
        "every place is free again": found.left_running == 0,
        "every call ended in time": found.late_s <= found.machine_late_s + ALLOWED_LATE_S,
    }
    return {
        **{name: _plain(value) for name, value in vars(found).items()},
        "late_ms": round(found.late_s * 1000, 1),
        "machine_late_ms": round(found.machine_late_s * 1000, 1),
        "broken": [promise for promise, kept in promises.items() if not kept],
        "memory_growth_mib": round(process.memory_info().rss / 2**20 - before_mib, 1),
        "handles_after": process.num_fds(),
        "threads_after": threading.active_count(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    head = (
        "mix",
        "calls",
        "answers",
        "typed errors",
        "lost or wrong",
        "beyond the deadline at most, ms",
        "machine late at most, ms",
        "most attempts",
        "retries",
        "shed",
        "processes replaced",
        "late answers dropped",
        "threads at most",
        "seconds",
    )
    lines = [head, ("---",) * len(head)]
    for row in rows:
        events = row["events"]
        cells = (
            row["mix"],
            row["calls"],
            _counts(row["answers"]),
            _counts(row["errors"]),
            len(row["wrong"]),
            max(row["late_ms"], 0.0),
            row["machine_late_ms"],
            f"{row['most_attempts']} of {BUDGET}",
            events.get("CallRetried", 0),
            events.get("CallShed", 0),
            events.get("ChildEnded", 0),
            events.get("LateAnswerDropped", 0),
            row["threads"],
            round(row["seconds"], 1),
        )
        lines.append(tuple(str(cell) for cell in cells))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Counter) else value


def _counts(counts: dict[str, int]) -> str:
    told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{sum(counts.values())} ({told})" if told else "0"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=10_000)
    mixes = (*MIXES, *CHILD_MIXES)
    parser.add_argument("--mix", choices=[mix.name for mix in mixes])
    parser.add_argument("--out", type=Path, default=Path("."))
    chosen = parser.parse_args()
    rows = []
    for mix in mixes:
        if chosen.mix in (None, mix.name):
            rows.append(measured(mix, chosen.calls))
            broken = "; ".join(rows[-1]["broken"])
            sys.stderr.write(f"{mix.name}: {f'BROKEN: {broken}' if broken else 'kept'}\n")
    machine = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }
    report = {
        "machine": machine,
        "pace": dataclasses.asdict(PACE),
        "child_pace": dataclasses.asdict(CHILD_PACE),
        "callers": CALLERS,
    }
    write_json(chosen.out / "fault_laboratory.json", {**report, "mixes": rows})
    write_text(chosen.out / "fault_laboratory.md", table(rows))
    sys.stdout.write(table(rows))
    return 1 if any(row["broken"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
