"""Examples for heads, and how heads are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.training.augment import Augmenter
from dspy_toolkit.training.recipe import AdapterRecipe

_LOSSES = ("cross_entropy", "label_smoothing", "focal")


@dataclass(frozen=True)
class HeadExample:
    """Inputs with what the outputs are known to be.

    Attributes:
        inputs: by field.
        outputs: by field; a field may be missing, None is a value of an optional field.
        beliefs: probability by option and field, of a teacher that answered the same inputs.
    """

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    beliefs: Mapping[str, Mapping[Any, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadLoss:
    """How wrong answers count.

    Attributes:
        name: of labels: "cross_entropy", "label_smoothing" or "focal".
        smoothing, gamma: their options.
        teacher: share of the KL divergence from given beliefs, where an example has them.
        weights: how much each field counts; one that is not named counts 1.
    """

    name: str = "cross_entropy"
    smoothing: float = 0.1
    gamma: float = 2.0
    teacher: float = 0.5
    weights: Mapping[str, float] | None = None


@dataclass(frozen=True)
class HeadOptions:
    """How heads are trained.

    Attributes:
        base: backbone: "embedded", a model folder, or a hub id.
        mode: "frozen" trains the heads alone, "lora" an adapter with them, "full" everything.
        adapter: shape of the adapter with "lora".
        causal: whether a token sees only what is before it, as the backbone learnt to read. With
            "full", letting tokens see both ways can pay.
        length: most tokens of an input.
        steps, batch_size, learning_rate, warmup_steps, weight_decay, clip_norm: of the training.
        evaluate_every: steps between evaluations; the weights of the best one are taken.
        augment: changes inputs anew each time they come round.
        loss: how wrong answers count.
        workers: threads among which a batch is shared out on a CPU; None takes the cores.
        seed: of everything random.
    """

    base: str = "embedded"
    mode: str = "full"
    adapter: AdapterRecipe | None = None
    causal: bool = True
    length: int = 512
    steps: int = 200
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 10
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    evaluate_every: int = 20
    augment: Augmenter | None = None
    loss: HeadLoss = field(default_factory=HeadLoss)
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("frozen", "lora", "dora", "full"):
            raise InvalidInput(f"mode must be frozen, lora, dora or full, got {self.mode!r}")
        if (self.adapter is not None) and self.mode not in ("lora", "dora"):
            raise InvalidInput(f"an adapter goes with mode lora or dora, not with {self.mode!r}")
        if self.loss.name not in _LOSSES:
            raise InvalidInput(
                f"loss {self.loss.name!r} does not exist; known: {', '.join(_LOSSES)}"
            )
