"""A small task on disk, and a language model that is a function."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dspy_toolkit.engine.scripted import ScriptedEngine
from dspy_toolkit.programs.lm import LocalLM

SIGNATURE = """
name = "route"
version = "1.0.0"
instructions = "Say which team takes the message."

[inputs.text]
type = "str"
min_length = 1

[outputs.team]
type = "Literal['atlas', 'comet']"
description = "the team that takes it"

[outputs.urgent]
type = "bool"
"""

DESCRIBED = f'{SIGNATURE}description = "whether it cannot wait"\n'
"""Says of every output what it is, as a question for its probability needs."""

TASK = """
name = "routing"
signature = "signature.toml"

[metric]
name = "per_field"

[data]
train = "data/train.jsonl"
validation = "data/validation.jsonl"
test = "data/test.jsonl"

[optimizer]
name = "labeled_few_shot"
k = 4
"""


def rows(split: str, count: int) -> list[dict[str, Any]]:
    """Lines whose answer can be told from the text: even numbers go to atlas, thirds are urgent."""
    return [
        {
            "text": f"{split} message {n}",
            "team": "atlas" if n % 2 == 0 else "comet",
            "urgent": n % 3 == 0,
        }
        for n in range(count)
    ]


def write_lines(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON Lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_task(folder: Path, task: str = TASK, signature: str = SIGNATURE) -> Path:
    """Write a whole task folder: 8 train, 6 validation and 12 test lines."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.toml").write_text(task)
    (folder / "signature.toml").write_text(signature)
    for split, count in (("train", 8), ("validation", 6), ("test", 12)):
        write_lines(folder / "data" / f"{split}.jsonl", rows(split, count))
    return folder


def scripted_lm(answer: Callable[[str], str], name: str = "scripted", **settings: Any) -> LocalLM:
    """A language model over a function from the whole request to what the model says."""
    engine = ScriptedEngine(answer, name)
    given = {"cache": False, **settings}
    return LocalLM(engine.model_string, engine=engine, async_engine=engine.async_twin, **given)


def chat(**fields: Any) -> str:
    """An answer in the chat format."""
    parts = [f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()]
    return "\n\n".join([*parts, "[[ ## completed ## ]]"])


def evidence(request: str, atlas: float, urgent: bool) -> str:
    """An answer in the chat format, with probabilities where the request asks for them.

    Args:
        request: names the kind of evidence that it asks for.
        atlas: how probable it is that the team is atlas.
        urgent: whether the message is more probably urgent than not.
    """
    weights = {"atlas": atlas, "comet": round(1 - atlas, 3)}
    team: object = max(weights, key=lambda name: weights[name])
    if "ChoiceEvidence" in request:
        team = json.dumps({"probabilities": weights, "confidence": 0.9})
    told = json.dumps({"noul": 0.8 if urgent else 0.3}) if "NoulEvidence" in request else urgent
    return chat(team=team, urgent=told)


def number_in(request: str) -> int:
    """The number of the last message in a request."""
    return int(re.findall(r"message (\d+)", request)[-1])


def right(request: str) -> str:
    """Answers every message right."""
    n = number_in(request)
    return chat(team="atlas" if n % 2 == 0 else "comet", urgent=n % 3 == 0)


def unsure(request: str) -> str:
    """Finds atlas more probable for its messages than for others, and never probable enough."""
    n = number_in(request)
    return evidence(request, 0.4 if n % 2 == 0 else 0.2, n % 3 == 0)


def learner(request: str) -> str:
    """Knows the teams only where demonstrations show them; without any it says comet."""
    n = number_in(request)
    shown = len(re.findall(r"message \d+", request)) > 1
    return chat(team="atlas" if shown and n % 2 == 0 else "comet", urgent=n % 3 == 0)
