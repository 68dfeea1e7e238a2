"""Training an adapter from chat examples that a program made."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.store.files import sha256_bytes, write_text
from dspy_toolkit.training.recipe_file import recipe_from
from dspy_toolkit.training.runs import train

_EMBEDDED = "embedded"
_BATCH = 8


@dataclass(frozen=True)
class AdapterTraining:
    """How an adapter is trained; see `training.recipe` for each.

    Attributes:
        name: of the training run.
        mode: "lora" or "dora".
        rank: of the adapter.
        epochs: how often each example is seen.
        learning_rate: highest one; None takes 1e-3 for the embedded model and 1e-4 for others.
        sequence_length: longest example in tokens; a longer one is an error.
        seed: of everything random.
    """

    name: str = "finetune"
    mode: str = "lora"
    rank: int = 8
    epochs: int = 8
    learning_rate: float | None = None
    sequence_length: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        # Before a task is compiled for it, which takes a minute.
        if self.mode not in ("lora", "dora"):
            raise InvalidInput(f"mode must be lora or dora, got {self.mode!r}")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise InvalidInput(f"learning_rate must be above 0, got {self.learning_rate}")


def adapter_trainer(
    how: AdapterTraining, settings: Settings | None = None
) -> Callable[[str, Sequence[Mapping[str, Any]]], Path]:
    """A function that trains an adapter for a model on chat examples, in a run of its own.

    The examples are kept in `<home>/traces`, so that a training that stopped can be resumed with
    `dspy-tk train --resume`. The function returns the adapter's folder.
    """
    chosen = settings or load_settings()

    def trained(reference: str, examples: Sequence[Mapping[str, Any]]) -> Path:
        text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in examples)
        data = chosen.home / "traces" / f"{sha256_bytes(text.encode())[:16]}.jsonl"
        write_text(data, text)
        small = reference == _EMBEDDED
        rows = _BATCH if small else _BATCH // 4
        steps_per_epoch = -(-len(examples) // _BATCH)
        recipe = recipe_from(
            {
                "name": how.name,
                "seed": how.seed,
                "model": {"base": reference, "mode": how.mode},
                "adapter": {"rank": how.rank},
                "data": {
                    "train": str(data),
                    "sequence_length": how.sequence_length,
                    "answers": "last",
                    "packing": False,
                },
                "optimizer": {"learning_rate": how.learning_rate or (1e-3 if small else 1e-4)},
                "schedule": {"name": "cosine", "warmup_steps": min(10, steps_per_epoch - 1)},
                "training": {
                    "epochs": how.epochs,
                    "batch_size": rows,
                    "accumulation": _BATCH // rows,
                    "clip_norm": 1.0,
                    "report_every": 5,
                },
                "checkpoint": {"every": 20},
            },
            "fine-tuning",
            chosen.home,
        )
        return Path(train(recipe, chosen)["result"])

    return trained
