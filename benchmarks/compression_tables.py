"""The tables of the guide, from what was measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compression_peers import ROUNDS
from benchmarks.compression_rows import Results


def shown(name: str, kept: Results) -> str:
    """One table as Markdown."""
    tables = {
        "techniques": show_techniques,
        "speeds": show_speeds,
        "peers": show_peers,
        "race": show_race,
        "pipeline": show_pipeline,
    }
    return "\n".join(tables[name](kept))


def show_techniques(kept: Results) -> Iterator[str]:
    from dspy_toolkit.compiler.gate import judge
    from dspy_toolkit.compiler.statistics import mean_interval, paired_interval

    rows, latency = kept.rows(), kept.get("latency") or {}
    before = rows["original"]["scores"]
    by_rounding = {"2": "rtn 2 bit", "3": "rtn 3 bit", "4": "rtn 4 bit", "8": "rtn 8 bit"}
    yield from head(
        "setting", "parameters", "size", "call alone", "KL", "of rtn", "test score (95 %)",
        "difference (95 %)", "gate",
    )  # fmt: skip
    for name, row in rows.items():
        if "refused" in row:
            yield line(name, "", "", "", "", "", row["refused"], "", "")
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
            f"{1e3 * median(latency[name]):.0f} ms" if name in latency else "",
            "" if row.get("kl") is None else f"{row['kl']:.4f}",
            "" if ratio is None else f"{ratio:.2f}",
            f"{percent(scores)} ({100 * low:.1f} to {100 * high:.1f})",
            ""
            if name == "original"
            else f"{100 * (sum(scores) - sum(before)) / len(scores):+.1f} "
            f"({100 * change[0]:+.1f} to {100 * change[1]:+.1f})",
            "" if name == "original" else judge(before, scores).verdict,
        )
    yield ""
    yield f"Digest of the model's weights: {rows['original']['digest'][:12]}."


def show_speeds(kept: Results) -> Iterator[str]:
    report = kept.get("speeds")
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


def show_peers(kept: Results) -> Iterator[str]:
    found: dict[str, list[dict[str, Any]]] = kept.get("peers")
    yield from head(
        "recipe", "side", "seconds, least", "of it measuring", "CPU seconds", "peak memory", "size",
        "KL", "weights",
    )  # fmt: skip
    order = list(ROUNDS)
    for side, runs in sorted(found.items(), key=lambda each: order.index(each[0].split()[0])):
        recipe, _, who = side.partition(" ")
        quickest = min(runs, key=lambda run: run["seconds"])
        measuring = quickest.get("measuring_s")
        yield line(
            recipe,
            who,
            f"{quickest['seconds']:.2f} of {len(runs)}",
            "" if measuring is None else f"{measuring:.1f}",
            f"{min(run['cpu_s'] for run in runs):.1f}",
            f"{min(run['peak_mb'] for run in runs)} MB",
            f"{runs[0]['bytes'] / 1e6:.2f} MB",
            f"{runs[0]['kl']:.5f}",
            runs[0]["digest"],
        )


def show_race(kept: Results) -> Iterator[str]:
    found = kept.get("race")
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


def show_pipeline(kept: Results) -> Iterator[str]:
    found = kept.get("pipeline")
    report, scores = found["report"], found["scores"]
    before = scores["original"]
    yield from head("candidate", "size", "KL", "state", "calls", "score of all", "on the front")
    for point in sorted(report["points"], key=lambda each: each["size_bytes"]):
        name = point["name"]
        change = (sum(scores[name]) - sum(before)) / len(before)
        yield line(
            name,
            f"{point['size_bytes'] / 1e6:.2f} MB",
            "" if point["kl"] is None else f"{point['kl']:.4f}",
            point["state"],
            str(point["examples"]),
            f"{percent(scores[name])} ({100 * change:+.1f})",
            "yes" if name in found["front"] else "",
        )
    yield ""
    verdict = report["evidence"]["gate"]["verdict"] if report["evidence"] else "none"
    yield (
        f"Recommended: {report['recommended']}, after {report['calls']} calls, "
        f"{100 * report['calls'] / report['exhaustive_calls']:.0f} % of the "
        f"{report['exhaustive_calls']} that scoring everything takes; "
        f"{report['calls_confirming']} more on the test examples, where the gate says: {verdict}."
    )


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
