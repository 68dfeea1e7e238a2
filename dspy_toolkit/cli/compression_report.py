"""What a compression run found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dspy_toolkit.cli.output import say, table
from dspy_toolkit.cli.scores import between, percent, points


def show_report(report: Mapping[str, Any]) -> None:
    """Print the table of candidates, the recommended one, and its evidence."""
    original = report["points"][0]
    best = set(report["front"])
    table(
        f"{report['task']} on {report['model']}; * no other is smaller and better",
        ("model", "score", "interval", "on", "size", "memory", "latency", "KL", "state"),
        [_row(point, original, point["name"] in best) for point in report["points"]],
    )
    for point in report["points"]:
        if point["reason"]:
            say(f"{point['name']}: {point['state']}, {point['reason']}")
    for each in report["refused"]:
        say(f"not tried: {each['name']}: {each['reason']}")
    say(
        f"{report['calls']} program calls; scoring every candidate on everything would have taken "
        f"{report['exhaustive_calls']}"
    )
    if report["recommended"] is None:
        _say_nearest(report)
        return
    chosen = next(p for p in report["points"] if p["name"] == report["recommended"])
    evidence = report["evidence"]
    table(
        f"recommended: {chosen['name']}, on {evidence['examples']} held-out test examples",
        ("", "result"),
        [
            ("original", percent(evidence["before"])),
            ("recommended", percent(evidence["after"])),
            (
                "difference",
                f"{points(evidence['difference'])} ({between(evidence['interval'], signed=True)})",
            ),
            ("gate", f"{evidence['gate']['verdict']} than the original"),
            ("size", f"{100 * chosen['size_bytes'] / original['size_bytes']:.0f} % of it"),
            ("model", chosen["folder"]),
            ("program", chosen["program"] or "the original's"),
            ("plot", str(Path(report["folder"]) / "pareto.svg")),
        ],
    )
    say(f"use it: dspy-tk evaluate {chosen['program'] or 'ARTIFACT'} --model {chosen['folder']}")


def _row(
    point: Mapping[str, Any], original: Mapping[str, Any], best: bool
) -> tuple[str, str, str, str, str, str, str, str, str]:
    latency = point["latency_p50_s"]
    return (
        ("* " if best else "  ") + point["name"],
        "" if point["score"] is None else percent(point["score"]),
        between(point["interval"]) if point["interval"] else "",
        str(point["examples"] or ""),
        f"{point['size_bytes'] / 1e6:.2f} MB",
        f"{point['memory_bytes'] / 1e6:.2f} MB",
        ""
        if latency is None
        else f"{1000 * latency:.0f} ms, {latency / original['latency_p50_s']:.2f}x",
        "" if point["kl"] is None else f"{point['kl']:.4f}",
        point["state"],
    )


def _say_nearest(report: Mapping[str, Any]) -> None:
    nearest = report["nearest"]
    if nearest is None:
        say("no candidate is good enough; allow a lower score with --goal 'score>=baseline-0.05'")
        return
    for miss in nearest["misses"]:
        value = "not measured" if miss["value"] is None else f"{miss['value']:g}"
        say(
            f"goal {miss['goal']!r} cannot be met; nearest is {nearest['name']} with {value}, "
            f"{miss['bound']:g} was asked for"
        )
