"""Write the question data from the policies in the wording files beside this script.

    python make_data.py [--out FOLDER]

The same seed and wording give the same bytes. Each question is asked twice, with other numbers;
a question about a limit is answered once with yes and once with no.
"""

from __future__ import annotations

import argparse
import json
import random
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SPLITS = ("train", "validation", "test")
SEED = 23
Slots = dict[str, Any]


def draw_twice(slots: dict[str, list[Any]], rng: random.Random) -> tuple[Slots, Slots]:
    """Two settings of the slots that differ in every one of them."""
    pairs = {name: rng.sample(values, 2) for name, values in slots.items()}
    return {n: pair[0] for n, pair in pairs.items()}, {n: pair[1] for n, pair in pairs.items()}


def context_for(needed: str, policy: dict[str, Any], slots: Slots, rng: random.Random) -> str:
    """Three to six sentences in random order, the rule with the needed slot among them."""
    rule = next(rule for rule in policy["rules"] if f"{{{needed}}}" in rule)
    others = [other for other in policy["rules"] if other != rule]
    sentences = [
        rule,
        *rng.sample(others, rng.randint(1, min(3, len(others)))),
        *rng.sample(policy["distractors"], rng.randint(1, 2)),
    ]
    rng.shuffle(sentences)
    return " ".join(sentence.format(**slots) for sentence in sentences)


def number_near(limit: int, above: bool, rng: random.Random) -> int:
    """A whole number from 2 on that is near the limit and on the side asked for."""
    far = max(1, limit // 4)
    return limit + rng.randint(1, far) if above else limit - rng.randint(1, min(far, limit - 2))


def spans_of(policy: dict[str, Any], rng: random.Random) -> list[dict[str, str]]:
    rows = []
    for question, answer in policy["spans"]:
        needed = answer[answer.index("{") + 1 : answer.index("}")]
        for slots in draw_twice(policy["slots"], rng):
            context = context_for(needed, policy, slots, rng)
            rows.append(
                {"context": context, "question": question, "answer": answer.format(**slots)}
            )
    return rows


def limits_of(policy: dict[str, Any], rng: random.Random) -> list[dict[str, str]]:
    rows = []
    for question, needed, allowed in policy["limits"]:
        twice = zip(("yes", "no"), draw_twice(policy["slots"], rng), strict=True)
        for answer, slots in twice:
            above = (answer == "yes") == (allowed == "at_least")
            number = number_near(slots[needed], above, rng)
            context = context_for(needed, policy, slots, rng)
            rows.append(
                {"context": context, "question": question.format(n=number), "answer": answer}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "data")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        wording = tomllib.loads((HERE / "wording" / f"{split}.toml").read_text("utf-8"))
        rng = random.Random(f"{SEED} {split}")
        rows = [
            row
            for policy in wording["policy"]
            for row in (*spans_of(policy, rng), *limits_of(policy, rng))
        ]
        rng.shuffle(rows)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{split}.jsonl").write_bytes(lines.encode())
        print(f"{split}: {len(rows)} questions")


if __name__ == "__main__":
    main()
