"""What the benchmark of the server found, as tables in the documentation.

    python -m benchmarks.serving_table RESULTS.json docs/serving.md

Writes between the lines `<!-- measured -->` and `<!-- /measured -->` of the document.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

_BETWEEN = re.compile(r"(<!-- measured -->\n).*?(<!-- /measured -->)", re.DOTALL)
_HEADS = {
    "beside": (
        "| workload | callers | ours: requests/s | p50 / p95 / p99 ms | mlx_lm.server: requests/s "
        "| p50 / p95 / p99 ms | ours / theirs |"
    ),
    "overhead": "| asked for | callers | engine p50, ms | server p50, ms | HTTP adds, ms |",
    "cache": "| requests, 8 callers | count | p50, ms | p95, ms |",
}


def head(kind: str) -> list[str]:
    """The two lines that a kind's table begins with."""
    columns = _HEADS[kind].count("|") - 1
    return [_HEADS[kind], "|" + "---|" * columns]


def row(kind: str, result: dict[str, Any]) -> str:
    """One result as a line."""
    if kind == "beside":
        sides = [
            f"{side['rate']:.1f} | " + " / ".join(f"{each:.0f}" for each in side["ms"])
            for side in (result["ours"], result["theirs"])
        ]
        ratio = result["ours"]["rate"] / result["theirs"]["rate"]
        return f"| {result['workload']} | {result['callers']} | {' | '.join(sides)} | {ratio:.1f} |"
    if kind == "overhead":
        engine, server = result["engine_ms"], result["server_ms"]
        named = f"| {result['asked']} | {result['callers']} "
        return f"{named}| {engine:.2f} | {server:.2f} | {server - engine:.2f} |"
    p50, p95 = result["ms"]
    return f"| {result['requests']} | {result['count']} | {p50:.1f} | {p95:.1f} |"


def main() -> None:
    results, document = map(Path, sys.argv[1:])
    found = json.loads(results.read_text())
    tables = [
        "\n".join([*head(kind), *(row(kind, each) for each in found[kind].values()), ""])
        for kind in _HEADS
        if kind in found
    ]
    text = document.read_text()
    if not _BETWEEN.search(text):
        raise SystemExit(f"{document} has no lines <!-- measured --> and <!-- /measured -->")
    document.write_text(_BETWEEN.sub(lambda m: m[1] + "\n".join(tables) + m[2], text))


if __name__ == "__main__":
    main()
