"""What keeping a run costs: time spent writing journal, history, logs and candidates.

Compiles an example with the embedded model and adds up the time of every write, over all threads,
beside the run's own time, which it therefore bounds from above: most of it is waiting for the
interpreter while other threads do the run's work. The processor's time is what writing takes from
the run. Then lists a home of 200 runs.

    python benchmarks/history_cost.py [TASK] [CANDIDATES]
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dspy_toolkit.compiler import candidates, logs, stages
from dspy_toolkit.compiler.course import Course
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.compiler.runs import list_runs
from dspy_toolkit.config import Settings
from dspy_toolkit.programs.task import load_task
from dspy_toolkit.store.append_log import AppendLog
from dspy_toolkit.store.history import History

WRITERS: list[tuple[Any, str, str]] = [
    (AppendLog, "append", "journal"),
    (History, "add", "history"),
    (History, "finish", "history"),
    (logs.RunLogs, "__call__", "logs"),
    (candidates.CandidateLog, "__call__", "candidates"),
    (candidates.CandidateWatch, "_keep", "candidates"),
    (stages, "write_outcomes", "scores"),
]


class Clock:
    """Adds up the time of functions by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.processor: defaultdict[str, float] = defaultdict(float)
        self.times: defaultdict[str, int] = defaultdict(int)

    def around(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began, worked = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent, work = time.perf_counter() - began, time.thread_time() - worked
                with self._lock:
                    self.seconds[name] += spent
                    self.processor[name] += work
                    self.times[name] += 1

        return timed


def measured(task: Path, tried: int, home: Path) -> dict[str, Any]:
    """One run's time, and what of it went into writing."""
    clock = Clock()
    for owner, name, label in WRITERS:
        setattr(owner, name, clock.around(getattr(owner, name), label))
    options = CompileOptions(
        optimizer="bootstrap_few_shot_with_random_search",
        options={"num_candidate_programs": tried},
        course=Course(fresh=True),
        keep_anyway=True,
    )
    loaded, began = load_task(task), time.process_time()
    report = compile_task(loaded, options, Settings(home=home, cache=False)).report
    processor = time.process_time() - began
    writing, worked = sum(clock.seconds.values()), sum(clock.processor.values())
    return {
        "calls": report["calls"]["made"],
        "seconds": report["seconds"],
        "writing_seconds": {name: round(clock.seconds[name], 4) for name in clock.seconds},
        "writing_processor_seconds": {
            name: round(clock.processor[name], 4) for name in clock.processor
        },
        "writes": dict(clock.times),
        "share_percent": round(100 * writing / report["seconds"], 3),
        "processor_share_percent": round(100 * worked / processor, 3),
    }


def listed(home: Path) -> float:
    """Seconds to list 200 runs, once everything is loaded; the quickest of five."""
    settings = Settings(home=home)
    (first,) = list_runs(settings)
    history = History(settings.database)
    for number in range(199):
        history.add(replace(first.row, id=f"{first.row.id}-{number}"))
    history.close()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        assert len(list_runs(settings, limit=500)) == 200
        times.append(time.perf_counter() - began)
    return round(min(times), 4)


def main() -> None:
    task = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/ticket_triage")
    tried = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory() as place:
        found = measured(task, tried, Path(place))
        found["list_200_runs_seconds"] = listed(Path(place))
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
