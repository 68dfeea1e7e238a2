"""`race` against BootstrapFewShotWithRandomSearch, as Markdown tables.

    python benchmarks/racing.py                # 50 simulated response matrices
    python benchmarks/racing.py --examples     # the examples, on the embedded model
    python benchmarks/racing.py --examples --only ticket_triage --seeds 3
    python benchmarks/racing.py --examples --only order_extraction --model FOLDER \\
        --format guided --max-tokens 112 --train 16 --validation 16 --test 64 --demos 4 \\
        --home FOLDER

With `--home` a benchmark that was cut short goes on where it ended.

A response matrix says how each of 57 candidates answers each of 80 validation and 240 test
examples: two fields that are right with the chance of an item response model (ability of the
candidate, half of it shared by its family, minus the example's difficulty, plus an effect of the
pair). The random search scores 19 candidates on all 80 examples and keeps the best. `race` may
draw from more candidates: 32 of them at a third of the calls, all 57 at equal calls.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dspy_toolkit.compiler.outcomes import read_outcomes
from dspy_toolkit.compiler.race import Rules, race
from dspy_toolkit.compiler.run import CompileOptions, compile_task
from dspy_toolkit.compiler.statistics import paired_interval
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import EngineError
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.task import Task, load_task

ROOT = Path(__file__).parents[1]
EXAMPLES = ("ticket_triage", "order_extraction", "policy_answers")
SEARCHED, THIRD, EQUAL = 19, 32, 57
VALIDATION, TEST = 80, 240
SPREADS = (0.15, 0.4, 1.0)
DIFFICULTIES = (1.5, 2.5)
SMALL_MAX_TOKENS = 64


@dataclass(frozen=True)
class Trials:
    """How the examples are tried; None takes what the task says, or all there is."""

    model: str = "embedded"
    format: str | None = None
    max_tokens: int | None = None
    demos: int | None = None
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    home: Path | None = None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--matrices", type=int, default=50, help="how many to simulate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", action="store_true", help="the examples instead")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each example")
    parser.add_argument("--only", action="append", choices=EXAMPLES)
    parser.add_argument("--model", default="embedded", help="any model reference")
    parser.add_argument("--format", help="prompt format of the examples")
    parser.add_argument("--max-tokens", type=int, help="of an answer")
    parser.add_argument("--demos", type=int, help="most in a prompt, one of them bootstrapped")
    parser.add_argument("--train", type=int, help="train examples to take")
    parser.add_argument("--validation", type=int, help="validation examples to take")
    parser.add_argument("--test", type=int, help="test examples to take")
    parser.add_argument("--home", type=Path, help="kept, and gone on with another time")
    asked = parser.parse_args()
    if asked.examples:
        trials = Trials(**{each.name: getattr(asked, each.name) for each in fields(Trials)})
        lines = on_examples(asked.only or EXAMPLES, asked.seeds, trials)
    else:
        lines = iter(on_matrices(asked.matrices, asked.seed))
    for line in lines:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def on_matrices(count: int, seed: int) -> list[str]:
    """The table over simulated matrices."""
    rng = np.random.default_rng(seed)
    gains: dict[str, list[float]] = {"a third": [], "equal": []}
    scored: dict[str, list[int]] = {"a third": [], "equal": []}
    full = SEARCHED * VALIDATION
    for number in range(count):
        scores = matrix(
            rng, SPREADS[number % len(SPREADS)], DIFFICULTIES[number % len(DIFFICULTIES)]
        )
        validation, test = scores[:, :VALIDATION], scores[:, VALIDATION:]
        found = int(validation[:SEARCHED].mean(axis=1).argmax())
        for name, candidates, budget in (("a third", THIRD, full // 3), ("equal", EQUAL, full)):
            result = race(
                lambda pairs, known=validation: [float(known[pair]) for pair in pairs],
                candidates,
                VALIDATION,
                Rules(budget),
            )
            gains[name].append(float(test[result.winner].mean() - test[found].mean()))
            scored[name].append(result.scored)
    lines = [
        f"| calls | calls of race, most | of the search | test score, race minus search (95 % "
        f"interval, {count} matrices) |",
        "|---|---|---|---|",
    ]
    for name, found_gains in gains.items():
        mean, half = mean_and_half(found_gains)
        lines.append(
            f"| {name} | {max(scored[name])} | {full} | {100 * mean:+.2f} points "
            f"({100 * (mean - half):+.2f} to {100 * (mean + half):+.2f}) |"
        )
    return lines


def matrix(rng: np.random.Generator, spread: float, difficulty: float) -> NDArray[np.float64]:
    """(EQUAL, VALIDATION + TEST) scores of 0, 0.5 or 1."""
    examples = VALIDATION + TEST
    families = rng.normal(0, spread * math.sqrt(0.5), 5)[rng.integers(0, 5, EQUAL)]
    ability = rng.normal(0.5, spread * math.sqrt(0.5), EQUAL) + families
    hard = rng.normal(0, difficulty, examples)
    pairs = rng.normal(0, 0.7, (EQUAL, examples))
    chance = 1 / (1 + np.exp(hard[None, :] - ability[:, None] - pairs))
    right: NDArray[np.float64] = (rng.random((2, EQUAL, examples)) < chance).mean(axis=0)
    return right


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """A mean, and half of its 95 % interval by the normal distribution."""
    return float(np.mean(values)), 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def on_examples(names: Sequence[str], seeds: int, trials: Trials) -> Iterator[str]:
    """The table over the examples, line by line as they come."""
    yield (
        "| example, seed | search | race, a third | race minus search | race, equal | race minus "
        "search | calls |"
    )
    yield "|---|---|---|---|---|---|---|"
    with nullcontext(trials.home) if trials.home else tempfile.TemporaryDirectory() as home:
        for name in names:
            for seed in range(seeds):
                # The cache answers for what was asked before, which is counted like the rest.
                settings = load_settings({"home": f"{home}/{name}-{seed}"})
                try:
                    yield example_row(name, seed, settings, trials)
                except EngineError as error:
                    yield f"| {name} | does not run: {error} | | | | | |"


def example_row(name: str, seed: int, settings: Settings, trials: Trials) -> str:
    """One example: the search with its options, and the race at a third and at equal calls."""
    task = load_task(cut(name, settings.home / "task", trials))
    options = dict(task.optimizer_options)
    if too_small(task, trials):
        # A model that is too small talks until it is stopped.
        options |= {"max_labeled_demos": 2, "max_bootstrapped_demos": 1}
    if trials.demos:
        options |= {"max_labeled_demos": trials.demos, "max_bootstrapped_demos": 1}
    searched = 3 + int(options["num_candidate_programs"])
    demos = options["max_labeled_demos"]
    ways: list[tuple[str, dict[str, Any]]] = [
        (task.optimizer or "", options),
        ("race", raced(searched, searched * THIRD // SEARCHED, demos, 3)),
        ("race", raced(searched, searched * EQUAL // SEARCHED, demos, 1)),
    ]
    runs = [run(task, optimizer, chosen, seed, settings, trials) for optimizer, chosen in ways]
    cells = [f"{name}, {seed}", percent(runs[0][0])]
    for scores, _ in runs[1:]:
        low, high = paired_interval(runs[0][0], scores)
        gain = 100 * (float(np.mean(scores)) - float(np.mean(runs[0][0])))
        cells += [percent(scores), f"{gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"]
    cells.append(", ".join(str(calls) for _, calls in runs))
    return f"| {' | '.join(cells)} |"


def cut(name: str, place: Path, trials: Trials) -> Path:
    """A copy of an example's folder with the first lines of its splits."""
    shutil.copytree(ROOT / "examples" / name, place, dirs_exist_ok=True)
    for split in ("train", "validation", "test"):
        file = place / "data" / f"{split}.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[: getattr(trials, split)]))
    return place


def too_small(task: Task, trials: Trials) -> bool:
    """Whether the task says so of the model."""
    return trials.model == "embedded" and bool(task.needs_larger_model)


def raced(searched: int, candidates: int, demos: int, part: int) -> dict[str, Any]:
    """Options of a race that makes at most a part of the search's calls."""
    share = math.floor(1e6 * searched / part / candidates) / 1e6
    return {"num_candidate_programs": candidates, "max_demos": demos, "share": share}


def run(
    task: Task,
    optimizer: str,
    options: dict[str, Any],
    seed: int,
    settings: Settings,
    trials: Trials,
) -> tuple[list[float], int]:
    """The test scores of a run's result, and the calls that the optimizer made."""
    longest = trials.max_tokens or (SMALL_MAX_TOKENS if too_small(task, trials) else None)
    limit = {"max_tokens": longest} if longest else {}
    lm = local_lm(trials.model, settings=settings, **limit)
    try:
        asked = CompileOptions(
            optimizer=optimizer,
            options=options,
            lm=lm,
            seed=seed,
            keep_anyway=True,
            format=trials.format,
        )
        result = compile_task(task, asked, settings)
    finally:
        lm.release()
    scored = read_outcomes(result.folder)
    calls = result.report["calls"]
    tested = len(scored["baseline"]) + len(scored["compiled"])
    return [each.score for each in scored["compiled"]], calls["made"] + calls["cached"] - tested


def percent(scores: Sequence[float]) -> str:
    """A mean score in percent."""
    return f"{100 * float(np.mean(scores)):.1f}"


if __name__ == "__main__":
    main()
