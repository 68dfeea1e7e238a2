"""An hour of faults, and whether anything grows.

    python benchmarks/soak.py [--minutes 60] [--every 15] [--out FOLDER]

Every so many seconds a round of calls goes through a supervised child, which is killed, stopped or
starved of memory in each, with a misbehaving HTTP server behind it, under metrics and health. The
first third warms up; the last is held against the second. Writes `soak.jsonl` as it goes and
`soak.md` at the end, and exits with 1 if a promise was broken or something grew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dspy_toolkit.store.files import write_text
from tests.resilience.laboratory.soak import Round, growth, soak

# What may be larger in the last third than in the second, by noise alone. A kind of failure that
# is seen for the first time is a new series; there are few kinds.
ALLOWED = {"memory, MiB": 4.0, "threads": 3.0, "file handles": 4.0, "metric series": 3.0}
READ: dict[str, Callable[[Round], float]] = {
    "memory, MiB": lambda each: each.memory_bytes / 2**20,
    "threads": lambda each: each.threads,
    "file handles": lambda each: each.handles,
    "metric series": lambda each: each.series,
}


def table(seen: list[Round]) -> str:
    lines = ["| | first round | at most | last round | growth | allowed |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, read in READ.items():
        numbers = (read(seen[0]), max(map(read, seen)), read(seen[-1]), growth(seen, read))
        cells = " | ".join(f"{number:.1f}" for number in numbers)
        lines.append(f"| {name} | {cells} | {ALLOWED[name]:g} |")
    totals = {
        name: sum(getattr(each, name) for each in seen)
        for name in ("answers", "errors", "replaced", "broken")
    }
    lines.append("")
    lines.append(
        f"{len(seen)} rounds: {totals['answers']} answers, {totals['errors']} typed errors, "
        f"{totals['replaced']} processes replaced, {totals['broken']} promises broken."
    )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=Path("."))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    seen: list[Round] = []
    with (chosen.out / "soak.jsonl").open("w") as log:
        for each in soak(60 * chosen.minutes, chosen.every):
            seen.append(each)
            log.write(json.dumps(asdict(each)) + "\n")
            log.flush()
    write_text(chosen.out / "soak.md", table(seen))
    sys.stdout.write(table(seen))
    grew = any(growth(seen, read) > ALLOWED[name] for name, read in READ.items())
    return 1 if grew or any(each.broken for each in seen) else 0


if __name__ == "__main__":
    sys.exit(main())
