from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"
TASKS = ("ticket_triage", "order_extraction", "policy_answers")
COUNTS = {"train": 80, "validation": 80, "test": 240}


@cache
def rows_of(task: str, split: str) -> list[dict[str, Any]]:
    text = (EXAMPLES / task / "data" / f"{split}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def sentences(text: str) -> set[str]:
    return {
        " ".join(words(part)) for part in re.split(r"[.?!:](?: |$)", text) if len(words(part)) > 1
    }


def five_grams(text: str) -> set[tuple[str, ...]]:
    run = words(text)
    return {tuple(run[i : i + 5]) for i in range(len(run) - 4)}
