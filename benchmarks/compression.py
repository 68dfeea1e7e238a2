"""Every technique on the embedded model and the ticket example; makes the tables of the guide.

    python benchmarks/compression.py --home FOLDER
    python benchmarks/compression.py --home FOLDER --write

The program is compiled once on the original model. What was built and scored is kept in the home
folder, so a run that stopped goes on where it was. Speeds are measured alone on the machine, in
turns; on a CPU packed weights run expanded, so only the cut models' speeds mean anything there.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TASK = ROOT / "examples" / "ticket_triage"
KEPT = "benchmark-compression"
GUIDE = ROOT / "docs" / "compression.md"
PEER_ROUNDS = 2
ORDERS, BLOCK, MARGIN = 5, 16, -0.02
HEAL = {"heal": True, "steps": 60, "batch": 4, "learning_rate": 2e-3}
CUT = {**HEAL, "method": "activation"}
SPARSE = {"structure": "unstructured", "target": 0.8}

Chain = tuple[tuple[str, Mapping[str, Any]], ...]
ROWS: tuple[tuple[str, Chain], ...] = (
    ("rtn 8 bit", (("rtn", {"bits": 8}),)),
    ("rtn 4 bit", (("rtn", {"bits": 4}),)),
    ("rtn 3 bit", (("rtn", {"bits": 3}),)),
    ("rtn 2 bit", (("rtn", {"bits": 2}),)),
    ("awq 4 bit", (("awq", {"bits": 4}),)),
    ("smoothquant 4 bit", (("smoothquant", {"bits": 4}),)),
    ("gptq 4 bit", (("gptq", {"bits": 4}),)),
    ("dwq 4 bit", (("dwq", {"bits": 4}),)),
    ("low rank", (("factorize", {"rank": 64, "embedding": True}),)),
    ("width -25 %, healed", (("prune", {**CUT, "structure": "width"}),)),
    ("80 % zeros", (("prune", SPARSE),)),
    ("80 % zeros, healed", (("prune", {**SPARSE, **HEAL}),)),
    ("ffn -10 %", (("prune", {"structure": "ffn", "target": 0.1, "method": "activation"}),)),
    ("dwq 2 bit", (("dwq", {"bits": 2}),)),
    ("low rank, healed", (("factorize", {**HEAL, "rank": 64, "embedding": True}),)),
    ("ffn -10 %, healed", (("prune", {**CUT, "structure": "ffn", "target": 0.1}),)),
    ("layers -10 %, healed", (("prune", {**CUT, "structure": "layers", "target": 0.1}),)),
    ("50 % zeros", (("prune", {**SPARSE, "target": 0.5}),)),
    ("gptq 2 bit", (("gptq", {"bits": 2}),)),
    ("rtn mxfp8", (("rtn", {"mode": "mxfp8"}),)),
    ("rtn mxfp4", (("rtn", {"mode": "mxfp4"}),)),
    ("rtn nvfp4", (("rtn", {"mode": "nvfp4"}),)),
    ("mixed 4 and 8 bit", (("mixed", {"target": 5.0}),)),
    ("dwq 3 bit", (("dwq", {"bits": 3}),)),
    ("awq 3 bit", (("awq", {"bits": 3}),)),
    (
        "width -25 %, healed, then dwq 4 bit",
        (("prune", {**CUT, "structure": "width"}), ("dwq", {"bits": 4, "group": 32})),
    ),
)
SPEEDS = ("width -25 %, healed", "ffn -10 %, healed", "layers -10 %, healed", "low rank")


def main() -> None:
    options = parse()
    sys.path.insert(0, str(ROOT))
    if options.side:
        one_side(options)
        return
    from dspy_toolkit.config import Settings
    from dspy_toolkit.engine.blas import preload_blas

    settings = Settings(home=options.home)
    preload_blas(settings.blas)
    kept = Results(options.home / KEPT)
    program = compiled(settings, kept)
    parts = {
        "techniques": lambda: techniques(settings, kept, program),
        "speeds": lambda: speeds(settings, kept),
        "peers": lambda: peers(options, kept),
        "race": lambda: raced(kept),
    }
    for name, make in parts.items():
        if options.only in (None, name):
            make()
    text = {name: shown(name, kept) for name in parts if kept.get(name)}
    for name, table in text.items():
        sys.stdout.write(f"\n## {name}\n\n{table}\n")
        if options.write:
            write_between(GUIDE, name, table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, required=True, help="where everything is kept")
    parser.add_argument(
        "--only",
        choices=("techniques", "speeds", "peers", "race", "tables"),
        help="one part, or the tables alone of what was measured before",
    )
    parser.add_argument("--write", action="store_true", help="put the tables into the guide")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


class Results:
    """What was measured so far, a file a key, kept after every step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> Any:
        path = self._folder / f"{key}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def put(self, key: str, value: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{key}.json").write_text(json.dumps(value, indent=1))


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
    from dspy_toolkit.compression.subject import look_at
    from dspy_toolkit.errors import ToolkitError

    trial = Trial(program, settings=settings)
    data = from_task(trial, look_at("embedded", settings), settings)
    held = trial.examples("test")
    rows: dict[str, Any] = kept.get("techniques") or {}
    if "original" not in rows:
        subject = look_at("embedded", settings)
        rows["original"] = {
            "folder": str(subject.folder),
            "parameters": subject.parameters,
            "bytes": subject.nbytes,
            "scores": trial.score("embedded", held).evaluation.scores,
        }
        kept.put("techniques", rows)
    for name, chain in ROWS:
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
            rows[name]["kl"] = None
        kept.put("techniques", rows)
        sys.stderr.write(f"{name}: {time.perf_counter() - began:.0f} s\n")


def speeds(settings: Any, kept: Results) -> None:
    """Cut models beside the original, in turns."""
    from dspy_toolkit.compression.bench import BenchOptions, bench

    rows = kept.get("techniques") or {}
    chosen = ["original", *(name for name in SPEEDS if "folder" in rows.get(name, {}))]
    report = bench(
        [rows[name]["folder"] for name in chosen],
        BenchOptions(prompt=128, new=16, rounds=3),
        settings,
    )
    kept.put("speeds", {"names": chosen, **report})


def peers(options: argparse.Namespace, kept: Results) -> None:
    """mlx-lm's own way for the same recipe, each in a process of its own, in turns."""
    found: dict[str, list[dict[str, Any]]] = kept.get("peers") or {}
    for number in range(PEER_ROUNDS):
        for side in ("rtn ours", "rtn mlx-lm", "dwq ours", "dwq mlx-lm"):
            if len(found.get(side, ())) > number:
                continue
            with tempfile.TemporaryDirectory() as folder:
                command = [
                    sys.executable, __file__, "--home", str(options.home), "--side", side,
                    "--folder", folder,
                ]  # fmt: skip
                ran = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found.setdefault(side, []).append(json.loads(ran.stdout.splitlines()[-1]))
            kept.put("peers", found)


def one_side(options: argparse.Namespace) -> None:
    """One recipe by one side: seconds, memory, and a digest of the weights or their KL."""
    from dspy_toolkit.config import Settings
    from dspy_toolkit.engine.blas import preload_blas

    preload_blas()
    import mlx.core as mx

    from dspy_toolkit.compiler.trial import Trial
    from dspy_toolkit.compression.build import build, order
    from dspy_toolkit.compression.calibration_sources import from_task
    from dspy_toolkit.compression.opened import silent
    from dspy_toolkit.compression.subject import look_at

    recipe, _, side = options.side.partition(" ")
    home, fresh = Settings(home=options.home), Settings(home=Path(options.folder) / "home")
    program = Path(Results(options.home / KEPT).get("program"))
    data = from_task(Trial(program, settings=home), look_at("embedded", home), home)
    steps = {"bits": 4, "steps": 4, "batch": 2, "learning_rate": 1e-4}
    began = time.perf_counter()
    facts: dict[str, Any] = {}
    if side == "ours":
        wanted = {"bits": 4} if recipe == "rtn" else steps
        used = data if recipe == "dwq" else None
        made = build(order("embedded", recipe, wanted, used, fresh), fresh)
        folder = made.folder
        facts["seconds_of_it"] = made.measures["seconds"]
    else:
        folder = Path(options.folder) / "theirs"
        source = look_at("embedded", home).folder
        with silent():
            (theirs_rtn if recipe == "rtn" else theirs_dwq)(source, folder, data)
    facts["seconds"] = round(time.perf_counter() - began, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    facts["peak_mb"] = round(peak / (1e6 if sys.platform == "darwin" else 1e3))
    weights: Any = mx.load(str(folder / "model.safetensors"))
    from dspy_toolkit.store.files import sha256_json

    facts["digest"] = sha256_json(
        {
            name: weights[name].astype(mx.float32).flatten().tolist()[:512]
            for name in sorted(weights)
        }
    )[:16]
    facts["kl"] = kl_of(folder, data, home)
    sys.stdout.write(json.dumps(facts) + "\n")


def theirs_rtn(source: Path, folder: Path, data: Any) -> None:
    from mlx_lm import convert

    convert(str(source), str(folder), quantize=True, q_bits=4, q_group_size=64, dtype="float16")


def theirs_dwq(source: Path, folder: Path, data: Any) -> None:
    """mlx-lm's dwq on the same rows, through packed products."""
    import copy

    import mlx.core as mx
    import mlx.optimizers as optimizers
    from mlx_lm.quant.dwq import dwq_quantize
    from mlx_lm.utils import load, quantize_model, save

    model, tokenizer, config = load(str(source), return_config=True)
    model.set_dtype(mx.float32)
    student = copy.deepcopy(model)
    _, config = quantize_model(student, config, group_size=64, bits=4)
    rows = [(row.tokens.tolist(), int(row.goals.argmax())) for row in data.fit]
    dwq_quantize(
        student,
        lambda batch, index, split: model(batch),
        optimizers.Adam(learning_rate=1e-4, bias_correction=True),
        rows[:8],
        rows[8:10],
        batch_size=2,
        max_seq_length=1024,
        seed=0,
        dtype=mx.float32,
    )
    student.set_dtype(mx.float16)
    save(folder, str(source), student, tokenizer, config)


def kl_of(folder: Path, data: Any, settings: Any) -> float:
    import mlx.core as mx

    from dspy_toolkit.compression.divergence import Reference
    from dspy_toolkit.compression.opened import open_folder, open_subject, working_device
    from dspy_toolkit.compression.subject import look_at
    from dspy_toolkit.engine.source import read_config

    device = working_device(settings)
    with mx.stream(device.kind):
        original = open_subject(look_at("embedded", settings), device)
        reference = Reference(original.model, data.held, int(original.config["vocab_size"]))
        return round(
            reference.compare_kl(open_folder(folder, read_config(folder), device).model), 6
        )


def raced(kept: Results) -> None:
    """The race over the recorded scores, in several orders of the examples, and the whole front."""
    import random

    from dspy_toolkit.compression.costs import nearer_at_no_cost
    from dspy_toolkit.compression.points import Point, front
    from dspy_toolkit.compression.racing import Track, race

    rows = {name: row for name, row in kept.get("techniques").items() if "scores" in row}
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


def shown(name: str, kept: Results) -> str:
    tables = {
        "techniques": show_techniques,
        "speeds": show_speeds,
        "peers": show_peers,
        "race": show_race,
    }
    return "\n".join(tables[name](kept.get(name)))


def show_techniques(rows: Mapping[str, Any]) -> Iterator[str]:
    from dspy_toolkit.compiler.gate import judge
    from dspy_toolkit.compiler.statistics import mean_interval, paired_interval

    before = rows["original"]["scores"]
    by_rounding = {"2": "rtn 2 bit", "3": "rtn 3 bit", "4": "rtn 4 bit", "8": "rtn 8 bit"}
    yield from head(
        "setting", "parameters", "size", "KL", "of rtn", "test score (95 %)",
        "difference (95 %)", "gate",
    )  # fmt: skip
    for name, row in rows.items():
        if "refused" in row:
            yield line(name, "", "", "", "", row["refused"], "", "")
            continue
        scores = row["scores"]
        low, high = mean_interval(scores)
        change = paired_interval(before, scores)
        words = name.split()
        same = rows.get(by_rounding.get(words[1], "")) if words[2:3] == ["bit"] else None
        ratio = row["kl"] / same["kl"] if same and row.get("kl") and same is not row else None
        yield line(
            name,
            f"{row['parameters']:,}",
            f"{row['bytes'] / 1e6:.2f} MB",
            "" if row.get("kl") is None else f"{row['kl']:.4f}",
            "" if ratio is None else f"{ratio:.2f}",
            f"{percent(scores)} ({100 * low:.1f} to {100 * high:.1f})",
            ""
            if name == "original"
            else f"{100 * (sum(scores) - sum(before)) / len(scores):+.1f} "
            f"({100 * change[0]:+.1f} to {100 * change[1]:+.1f})",
            "" if name == "original" else judge(before, scores).verdict,
        )


def show_speeds(report: Mapping[str, Any]) -> Iterator[str]:
    yield from head("model", "rows", "read tokens/s", "write tokens/s", "reads", "writes")
    base = report["models"][0]["speeds"]
    for name, model in zip(report["names"], report["models"], strict=True):
        for i, speed in enumerate(model["speeds"]):
            cells = []
            for key in ("prefill_tokens_per_s", "decode_tokens_per_s"):
                value = speed[key]
                cells.append(
                    f"{value['median']:,.0f} ({value['least']:,.0f} to {value['most']:,.0f})"
                )
            ratios = [
                f"{speed[key]['median'] / base[i][key]['median']:.2f}x"
                for key in ("prefill_tokens_per_s", "decode_tokens_per_s")
            ]
            yield line(name, str(speed["rows"]), *cells, *ratios)


def show_peers(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    yield from head(
        "recipe", "side", f"seconds, least of {PEER_ROUNDS}", "peak memory", "KL", "weights"
    )
    for side, runs in found.items():
        recipe, _, who = side.partition(" ")
        yield line(
            recipe,
            who,
            f"{min(run['seconds'] for run in runs):.1f}",
            f"{min(run['peak_mb'] for run in runs)} MB",
            f"{runs[0]['kl']:.5f}",
            runs[0]["digest"],
        )


def show_race(found: Mapping[str, Any]) -> Iterator[str]:
    yield from head(
        "order", "recommended", "on the front", "calls", "of scoring everything", "raced"
    )
    for number, order in enumerate(found["orders"]):
        yield line(
            str(number),
            order["winner"] or "none",
            "yes" if order["on_front"] else "no",
            str(order["calls"]),
            f"{100 * order['calls'] / order['exhaustive']:.0f} %",
            ", ".join(f"{name} ({count}, {state})" for name, count, state in order["runners"]),
        )
    yield ""
    yield f"The whole front: {', '.join(found['front'])}."


def head(*names: str) -> Iterator[str]:
    yield line(*names)
    yield line(*("---" for _ in names))


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def percent(scores: Sequence[float]) -> str:
    return f"{100 * sum(scores) / len(scores):.1f} %"


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between a table's two marks."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    content = page.read_text()
    before, found, rest = content.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"{page} has no place for {name}: add {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


if __name__ == "__main__":
    main()
