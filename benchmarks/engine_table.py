"""What the benchmarks of the engine found, as a table in the documentation.

    python -m benchmarks.engine_table RESULTS.json docs/engine.md

Writes between the lines `<!-- measured -->` and `<!-- /measured -->` of the document.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

_BETWEEN = re.compile(r"(<!-- measured -->\n).*?(<!-- /measured -->)", re.DOTALL)
_NAMES = {
    "w1": "W1 classification, warm",
    "w2": "W2 chain of thought, warm",
    "w3": "W3 extraction, warm",
    "w4": "W4 cold burst of 32",
    "w5": "W5 one caller, tokens/s",
    "reading": "reading a prompt, tokens/s",
    "w6": "W6 whole compile, minutes",
    "overhead": "CPU of a call beside bare DSPy, ms",
}


def table_head() -> list[str]:
    """The two lines that a table begins with."""
    return [
        "| model | work | at once | ours | opponent | seeded | times | bar | tokens | of limit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]


def table_row(result: dict[str, Any]) -> str:
    """One result as a line."""
    tokens = result.get("tokens")
    limit = result.get("limit")
    return "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |".format(
        result["model"],
        _NAMES[result["workload"]],
        result.get("concurrent") or "",
        _figure(result["ours"]),
        _figure(result["server"]),
        _figure(result.get("seeded")),
        "" if result["workload"] == "reading" else f"{result['ratio']:.2f}",
        f"{result['bar']:g}" if result["bar"] else "",
        "" if tokens is None else "{:.0f}, {:.0f}".format(*tokens),
        "" if limit is None else f"{limit:.0%}",
    )


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    results, document = map(Path, sys.argv[1:])
    rows = json.loads(results.read_text()).values()
    lines = [*table_head(), *map(table_row, rows), ""]
    text = document.read_text()
    if not _BETWEEN.search(text):
        raise SystemExit(f"{document} has no lines <!-- measured --> and <!-- /measured -->")
    table = "\n".join(lines)
    document.write_text(_BETWEEN.sub(lambda m: f"{m[1]}{table}{m[2]}", text))


if __name__ == "__main__":
    main()
