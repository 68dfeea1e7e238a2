"""The pipeline beside scoring everything: its race over recorded scores, and a whole run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compression_rows import Results

ORDERS, BLOCK, MARGIN = 5, 16, -0.02
CANDIDATES = (
    "rtn-8", "mixed-5", "rtn-4", "rtn-3", "rtn-2", "awq-4", "smoothquant-4", "gptq-4", "dwq-4",
    "dwq-3",
)  # fmt: skip


def raced(kept: Results) -> None:
    """The race over the recorded scores, in several orders of the examples, and the whole front."""
    from dspy_toolkit.compression.costs import nearer_at_no_cost
    from dspy_toolkit.compression.points import Point, front
    from dspy_toolkit.compression.racing import Track, race

    rows = {name: row for name, row in kept.rows().items() if "scores" in row}
    count = len(rows["original"]["scores"])
    points = {
        name: Point(
            name=name,
            folder="",
            program=None,
            size_bytes=row["bytes"],
            memory_bytes=row["bytes"],
            parameters=row["parameters"],
            kl=row.get("kl"),
            score=sum(row["scores"]) / count,
        )
        for name, row in rows.items()
    }
    candidates = [point for name, point in points.items() if name != "original"]
    runners = [point for point in candidates if nearer_at_no_cost(point, candidates) is None]
    runners.sort(key=lambda point: (point.size_bytes, point.kl or 0.0))
    best = [point.name for point in front(list(points.values()))]
    found = []
    for seed in range(ORDERS):
        order = list(range(count))
        random.Random(seed).shuffle(order)
        track = Track(tuple(order), BLOCK, MARGIN)
        before = [rows["original"]["scores"][i] for i in order]

        def score(name: str, block: Sequence[int]) -> list[float]:
            return [rows[name]["scores"][i] for i in block]

        finishes = race([point.name for point in runners], before, track, score)
        winner = next((each.name for each in finishes if each.state == "kept"), None)
        found.append(
            {
                "calls": count + sum(len(each.scores) for each in finishes),
                "exhaustive": count * len(points),
                "runners": [[each.name, len(each.scores), each.state] for each in finishes],
                "winner": winner,
                "on_front": winner in best,
            }
        )
    kept.put("race", {"orders": found, "front": best})


def piped(settings: Any, kept: Results, program: Path) -> None:
    """`compress run` on a task, and every one of its candidates on every validation example."""
    from dspy_toolkit.compiler.trial import Trial
    from dspy_toolkit.compression.make import run_pipeline
    from dspy_toolkit.compression.points import Point, front

    goal = f"score>=baseline{MARGIN}"
    report = run_pipeline(program, "embedded", [goal], candidates=CANDIDATES, settings=settings)
    trial = Trial(program, settings=settings)
    pool = trial.examples("validation")
    found: dict[str, Any] = kept.get("pipeline") or {}
    scores: dict[str, list[float]] = found.get("scores", {})
    for each in report["points"]:
        if each["name"] not in scores:
            scores[each["name"]] = trial.score(each["folder"], pool).evaluation.scores
            kept.put("pipeline", {"report": report, "scores": scores})
    points = [
        Point(
            name=each["name"],
            folder=each["folder"],
            program=None,
            size_bytes=each["size_bytes"],
            memory_bytes=each["size_bytes"],
            parameters=each["parameters"],
            score=sum(scores[each["name"]]) / len(pool),
        )
        for each in report["points"]
    ]
    best = [point.name for point in front(points)]
    kept.put("pipeline", {"report": report, "scores": scores, "front": best, "pool": len(pool)})
