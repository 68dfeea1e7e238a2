"""Every technique on the embedded model and the ticket example; makes the tables of the guide.

    python -m benchmarks.compression --home FOLDER
    python -m benchmarks.compression --home FOLDER --only latency speeds
    python -m benchmarks.compression --home FOLDER --only tables --write

The program is compiled once on the original model. What was built and scored is kept in the home
folder by the model's digest, so a run that stopped goes on where it was, and another model starts
anew. Latency, speeds and peers want a machine that does nothing else, and are measured again only
when they are asked for; on a CPU packed weights run expanded, so only the cut models' times mean
anything there.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.compression_peers import peers
from benchmarks.compression_race import piped, raced
from benchmarks.compression_rows import ROWS, Results
from benchmarks.compression_tables import shown, write_between

ROOT = Path(__file__).resolve().parents[1]
TASK = ROOT / "examples" / "ticket_triage"
GUIDE = ROOT / "docs" / "compression.md"
CALLS = 4
SPEEDS = (
    "ffn -10 %, healed", "layers -10 %, healed", "width -25 %, healed", "width -50 %, healed",
    "low rank",
)  # fmt: skip
TIMED = ("latency", "speeds")
TABLES = ("techniques", "speeds", "peers", "race", "pipeline")


def main() -> None:
    options = parse()
    from dspy_toolkit.config import Settings
    from dspy_toolkit.engine.blas import preload_blas

    settings = Settings(home=options.home)
    preload_blas(settings.blas)
    from dspy_toolkit.compression.subject import look_at

    kept = Results(options.home, look_at("embedded", settings).digest)
    program = compiled(settings, kept)
    parts = {
        "techniques": lambda: techniques(settings, kept, program),
        "latency": lambda: latency(settings, kept, program),
        "speeds": lambda: speeds(settings, kept),
        "peers": lambda: peers(options.home, kept),
        "race": lambda: raced(kept),
        "pipeline": lambda: piped(settings, kept, program),
    }
    for name, make in parts.items():
        if name in options.only if options.only else name not in TIMED or not kept.get(name):
            make()
    text = {name: shown(name, kept) for name in TABLES if kept.get(name)}
    for name, table in text.items():
        sys.stdout.write(f"\n## {name}\n\n{table}\n")
        if options.write:
            write_between(GUIDE, name, table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, required=True, help="where everything is kept")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("techniques", "latency", "speeds", "peers", "race", "pipeline", "tables"),
        help="some parts, or the tables alone of what was measured before",
    )
    parser.add_argument("--write", action="store_true", help="put the tables into the guide")
    return parser.parse_args()


def compiled(settings: Any, kept: Results) -> Path:
    """The program, compiled on the original model."""
    from dspy_toolkit.compiler.trial import Trial

    if kept.get("program") is None:
        kept.put("program", str(Trial(TASK, settings=settings).compiled_on("embedded")))
    return Path(kept.get("program"))


def techniques(settings: Any, kept: Results, program: Path) -> None:
    from dspy_toolkit.compiler.trial import Trial
    from dspy_toolkit.compression.build import build, order
    from dspy_toolkit.compression.calibration_sources import from_task
    from dspy_toolkit.compression.costs import kl_to_original
    from dspy_toolkit.compression.subject import look_at
    from dspy_toolkit.errors import ToolkitError

    trial = Trial(program, settings=settings)
    data = from_task(trial, look_at("embedded", settings), settings)
    held = trial.examples("test")
    rows: dict[str, Any] = kept.get("techniques") or {}
    if "original" not in rows:
        subject = look_at("embedded", settings)
        rows["original"] = {
            "folder": "embedded",
            "parameters": subject.parameters,
            "bytes": subject.nbytes,
            "digest": subject.digest,
            "scores": trial.score("embedded", held).evaluation.scores,
        }
        kept.put("techniques", rows)
    for name, chain in ROWS.items():
        if name in rows:
            continue
        folder = "embedded"
        began = time.perf_counter()
        try:
            for technique, options in chain:
                made = build(order(folder, technique, options, data, settings), settings)
                folder = str(made.folder)
        except ToolkitError as error:
            rows[name] = {"refused": str(error)}
            kept.put("techniques", rows)
            continue
        rows[name] = {
            "folder": folder,
            **{
                key: made.measures.get(key)
                for key in ("parameters", "bytes", "kl", "agreement", "sparsity", "seconds")
            },
            "scores": trial.score(folder, held).evaluation.scores,
        }
        if len(chain) > 1:
            original = look_at("embedded", settings)
            rows[name]["kl"] = kl_to_original(original, folder, data.held, settings)
        kept.put("techniques", rows)
        sys.stderr.write(f"{name}: {time.perf_counter() - began:.0f} s\n")


def latency(settings: Any, kept: Results, program: Path) -> None:
    """One call alone on every model, in turns."""
    from dspy_toolkit.compiler.trial import Trial
    from dspy_toolkit.compression.calibration_sources import from_task
    from dspy_toolkit.compression.costs import latencies
    from dspy_toolkit.compression.subject import look_at

    subject = look_at("embedded", settings)
    data = from_task(Trial(program, settings=settings), subject, settings)
    folders = {name: row["folder"] for name, row in kept.rows().items() if "folder" in row}
    found = latencies(list(folders.values()), data.held[:CALLS], settings)
    kept.put("latency", {name: found[folder] for name, folder in folders.items()})


def speeds(settings: Any, kept: Results) -> None:
    """Cut models beside the original, in turns."""
    from dspy_toolkit.compression.bench import BenchOptions, bench

    rows = kept.rows()
    chosen = ["original", *(name for name in SPEEDS if "folder" in rows.get(name, {}))]
    report = bench(
        [rows[name]["folder"] for name in chosen],
        BenchOptions(prompt=128, new=16, rounds=3),
        settings,
    )
    kept.put("speeds", {"names": chosen, **report})


if __name__ == "__main__":
    main()
