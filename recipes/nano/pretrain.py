"""Train the decoder on abstract episodes, one level after the other."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import shape
from mlx.utils import tree_flatten
from warmup import (  # fmt: skip
    FAMILIES,
    FIXED,
    LEVELS,
    MOOD_0,
    MOOD_WORDS,
    MOODS,
    SIZES,
    TOPIC_0,
    TOPIC_WORDS,
    TOPICS,
    VOCAB,
    abstract_batch,
)

from dspy_toolkit.engine.device import Device
from dspy_toolkit.training.attention import in_blocks
from dspy_toolkit.training.batches import Batch
from dspy_toolkit.training.checkpoints import Checkpoints
from dspy_toolkit.training.gradients import OneThread
from dspy_toolkit.training.losses import cross_entropy
from dspy_toolkit.training.optimizers import learning_rate, make_optimizer
from dspy_toolkit.training.order import mlx_seed
from dspy_toolkit.training.progress import Progress
from dspy_toolkit.training.recipe import OptimizerRecipe, ScheduleRecipe
from dspy_toolkit.training.stepping import Stepper
from dspy_toolkit.training.trainer import Plan, Trainer

TOKENS = 4096
LENGTHS = {"copy": 64, "pair": 48, "pair_mark": 64, "fields": 112, "few_words": 144}
LONGEST = 256
# Copying forms late and suddenly; what stands on it is learnt in a few hundred steps.
COPYING = 0.7
EARLIER = 0.3
OPTIMIZER = OptimizerRecipe(learning_rate=2e-3, betas=(0.9, 0.98), weight_decay=0.01)


class Abstracted(nn.Module):  # type: ignore[misc]
    """The decoder over vectors that are drawn anew for every batch.

    Words of one topic or mood share a part, words of one family (topic, mood, label, neither)
    another, and all have one part in common. Only these, and the few tokens that stand for the
    fixed phrases of a prompt, are learnt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.llama = shape.llama(1)
        self.llama.model.embed_tokens.freeze()
        self.base = _drawn(1, 0.7)
        self.families = _drawn(len(FAMILIES), 0.3)
        self.fixed = _drawn(FIXED, 1.0)
        shape.start_structured(self.llama, self.base)

    def table(self, share: mx.array) -> mx.array:
        """A fresh (VOCAB, width) table; `share` of a word's variance is that of its topic."""
        own = _drawn(VOCAB - FIXED, 1.0)
        common = mx.zeros_like(own)
        grouped = mx.zeros((VOCAB - FIXED, 1))
        for start, groups, size in ((TOPIC_0, TOPICS, TOPIC_WORDS), (MOOD_0, MOODS, MOOD_WORDS)):
            rows = slice(start - FIXED, start - FIXED + groups * size)
            common[rows] = mx.repeat(_drawn(groups, 1.0), size, axis=0)
            grouped[rows] = 1.0
        which = mx.array(np.repeat(np.arange(len(FAMILIES)), SIZES[1:]))
        mixed = own * mx.sqrt(1 - share * grouped) + common * mx.sqrt(share)
        return mx.concatenate([self.fixed, mixed + self.families[which]]) + self.base

    def logits(self, arrays: Any) -> mx.array:
        """(n, VOCAB), of the answers at `places`."""
        table, tokens = self.table(arrays["share"]), arrays["tokens"]
        hidden = self.llama.model(tokens, None, table[tokens])
        return hidden.reshape(-1, shape.WIDTH)[arrays["places"] - 1] @ table.T


def _drawn(rows: int, scale: float) -> mx.array:
    return mx.random.normal((rows, shape.WIDTH)) * scale * shape.WIDTH**-0.5


class AbstractSource:
    """Batches by number: a level for its share of the steps, some of the levels before it."""

    def __init__(self, seed: int, steps: int) -> None:
        self._seed, self._steps = seed, steps

    def level(self, index: int, rng: np.random.Generator) -> str:
        done = index / self._steps
        beyond = max(0.0, done - COPYING) / (1 - COPYING) * (len(LEVELS) - 1)
        level = 0 if done < COPYING else min(len(LEVELS) - 1, 1 + int(beyond))
        earlier = level > 0 and rng.random() < EARLIER
        return LEVELS[int(rng.integers(level)) if earlier else level]

    def batch(self, index: int) -> Batch:
        rng = np.random.default_rng((self._seed, index))
        arrays = _arrays(rng, self.level(index, rng))
        return Batch((arrays,), arrays["tokens"].size, (f"batch {index}",))


def _arrays(rng: np.random.Generator, level: str) -> dict[str, mx.array]:
    length = LENGTHS.get(level, LONGEST)
    made = abstract_batch(rng, level, TOKENS // length, length)
    return {
        "tokens": mx.array(made.tokens),
        "places": mx.array(made.places),
        "targets": mx.array(made.tokens.reshape(-1)[made.places]),
        "late": mx.array(made.late),
        "share": mx.array(float(rng.uniform(0.35, 0.8)), mx.float32),
    }


def _loss(model: Abstracted, arrays: Any) -> tuple[mx.array, mx.array]:
    each = cross_entropy(model.logits(arrays), arrays["targets"])
    return each.sum(), mx.array(each.size, mx.float32)


def warm(folder: Path, steps: int, seed: int, device: Device) -> Abstracted:
    """The decoder after warm-up. Checkpoints lie in `folder`, and it goes on from the newest.

    Raises:
        StorageError, TrainingDiverged, KeyboardInterrupt: see `Trainer.run`.
    """
    mx.random.seed(mlx_seed(seed, 0))
    with ExitStack() as ways:
        ways.enter_context(mx.stream(device.kind))
        model = Abstracted()
        mx.eval(model.parameters())
        if device.name == "cpu":
            ways.enter_context(in_blocks(model.llama))
        trainer = _trainer(model, folder, steps, seed, device)
        ways.enter_context(closing(trainer.stepper))
        newest = trainer.checkpoints.newest if trainer.checkpoints else None
        trainer.run(trainer.restore(newest) if newest else Progress())
    return model


def _trainer(model: Abstracted, folder: Path, steps: int, seed: int, device: Device) -> Trainer:
    on_gpu = device.name != "cpu"
    optimizer = make_optimizer(OPTIMIZER)
    schedule = ScheduleRecipe(warmup_steps=min(150, steps // 2))
    return Trainer(
        plan=Plan(
            run="warm-up",
            seed=seed,
            steps=steps,
            accumulation=1,
            rate=learning_rate(schedule, OPTIMIZER.learning_rate, steps),
            report_every=50,
            evaluate_every=None,
            checkpoint_every=250,
        ),
        model=model,
        stepper=Stepper(model, optimizer, OneThread(model, _loss, on_gpu), 1.0, compiled=on_gpu),
        optimizer=optimizer,
        source=AbstractSource(seed, steps),
        validation=(),
        validation_loss=_loss,
        checkpoints=Checkpoints("warm-up", folder, keep_last=2, keep_best=0),
    )


def accuracies(model: Abstracted) -> dict[str, float]:
    """Share of right answers by level, where a label was shown twice before."""
    found = {}
    for level in LEVELS:
        mx.random.seed(0)
        arrays = _arrays(np.random.default_rng(0), level)
        right = model.logits(arrays).argmax(-1) == arrays["targets"]
        late = arrays["late"]
        found[level] = float(((right & late).sum() / late.sum()).item())
    return found


def parts(model: Abstracted) -> tuple[dict[str, mx.array], dict[str, np.ndarray]]:
    """Weights of the decoder by name, and what was learnt of the embeddings."""
    learnt = dict(tree_flatten(model.llama.parameters()))
    learnt.pop("model.embed_tokens.weight")
    return learnt, {name: np.array(getattr(model, name)) for name in ("base", "families", "fixed")}
