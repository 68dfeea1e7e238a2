"""Small real artifacts on the embedded model, and the home they are deployed in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.config import Settings
from dspy_toolkit.programs.artifact import Artifact, save_artifact
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.modules import ModulePlan
from dspy_toolkit.programs.opening import local_lm
from dspy_toolkit.programs.signature import dspy_signature
from dspy_toolkit.registry.reading import load_file
from dspy_toolkit.store.files import write_text
from tests.programs.tasks import SIGNATURE

INPUTS = {"text": "The parcel never came and I need it today."}
# Says which version it is of in its answer, after its model was asked.
PROGRAM = """
import dspy


class Marked(dspy.Module):
    def __init__(self):
        super().__init__()
        self.route = dspy.Predict("text -> team: Literal['atlas', 'comet']")

    async def aforward(self, text):
        first = await self.route.acall(text=text)
        return dspy.Prediction(team=first.team, build="BUILD")

    def forward(self, text):
        return dspy.Prediction(team=self.route(text=text).team, build="BUILD")


def program():
    return Marked()
"""


def opened(settings: Settings) -> LocalLM:
    """The embedded model."""
    return local_lm("embedded", max_tokens=24, settings=settings)


def write_artifact(
    folder: Path, settings: Settings, demos: int = 2, form: str = "guided", **facts: Any
) -> Artifact:
    """A compiled classifier: two outputs, decided among options."""
    write_text(folder.parent / f"{folder.name}.toml", SIGNATURE)
    record = load_file(folder.parent / f"{folder.name}.toml")
    program = dspy.Predict(dspy_signature(record))
    program.demos = [
        dspy.Example(text=f"message {n}", team="comet" if n % 2 else "atlas", urgent=n % 2 == 0)
        for n in range(demos)
    ]
    plan = ModulePlan("predict", record)
    return _saved(folder, program, plan, settings, form, facts)


def write_marked(folder: Path, settings: Settings, build: str, **facts: Any) -> Artifact:
    """A program of the user's own whose answers say which build gave them."""
    source = folder.parent / f"{folder.name}-source"
    write_text(source / "program.py", PROGRAM.replace("BUILD", build))
    plan = ModulePlan("program", None, source, "program.py")
    return _saved(folder, plan.build(), plan, settings, "guided", facts)


def with_scores(folder: Path, scores: Sequence[float], test: str = "t") -> dict[str, Any]:
    """Facts of a compile run on test examples, whose scores lie beside the artifact."""
    lines = [
        {"phase": "compiled", "example": f"test.jsonl:{n}", "score": score, "error": None}
        for n, score in enumerate(scores, start=1)
    ]
    write_text(folder.parent / "examples.jsonl", "".join(f"{json.dumps(x)}\n" for x in lines))
    mean = sum(scores) / len(scores)
    return {
        "data": {"test": {"n": len(scores), "digest": test}},
        "compiled": {"score": mean, "n": len(scores), "interval": [0.0, 1.0]},
        "gate": {"verdict": "better", "n": len(scores)},
    }


def _saved(
    folder: Path,
    program: dspy.Module,
    plan: ModulePlan,
    settings: Settings,
    form: str,
    facts: Mapping[str, Any],
) -> Artifact:
    lm = opened(settings)
    try:
        every = {"inputs": ["text"], "seed": 0, "prompt_format": form, "task": "routing", **facts}
        return save_artifact(folder, program, plan, lm, every)
    finally:
        lm.release()
