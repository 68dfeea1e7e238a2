"""Training recipes as frozen records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from dspy_toolkit.training.tables import (
    FLAG,
    PAIR,
    PATH,
    PATHS,
    TABLE,
    TEXTS,
    number,
    one_of,
    text,
    whole,
)


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """What is trained: `base` with all its weights or an adapter, or a new model from `config`.

    Attributes:
        base: "embedded", a model folder, or a hub id.
        config: `config.json` of a new llama, as mlx-lm names the keys.
        tokenizer: folder with the new model's tokenizer and chat template.
        mode: "full" trains every weight, "lora" and "dora" an adapter.
        device: "auto", "gpu" or "cpu".
        dtype: type of weights and arithmetic; "auto" is float32 on a CPU and for new models.
    """

    base: Annotated[str | None, text("'embedded', a model folder or a hub id")] = None
    config: Annotated[Mapping[str, Any] | None, TABLE] = None
    tokenizer: Annotated[Path | None, PATH] = None
    mode: Annotated[str, one_of("full", "lora", "dora")] = "full"
    device: Annotated[str, one_of("auto", "gpu", "cpu")] = "auto"
    dtype: Annotated[str, one_of("auto", "float32", "float16", "bfloat16")] = "auto"


@dataclass(frozen=True, kw_only=True)
class AdapterRecipe:
    """Shape of a LoRA or DoRA adapter.

    Attributes:
        rank: columns of the low-rank pair.
        scale: what its product is multiplied with (mlx-lm's `scale`, not `alpha`).
        dropout: share of an adapter's inputs that is set to zero while training.
        layers: how many of the last blocks are adapted; None takes all.
        keys: module paths inside a block, such as `self_attn.q_proj`; None takes every linear one.
    """

    rank: Annotated[int, whole(1)] = 8
    scale: Annotated[float, number(0, above=True)] = 10.0
    dropout: Annotated[float, number(0, 0.9)] = 0.0
    layers: Annotated[int | None, whole(1)] = None
    keys: Annotated[tuple[str, ...] | None, TEXTS] = None


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """What is learnt from.

    Attributes:
        train, validation, test: JSON Lines files of chat or completion examples.
        generator: `file.py:function` that makes training examples instead of `train`.
        sequence_length: longest row in tokens.
        too_long: "refuse" stops at an example that does not fit a row, "truncate" cuts its end,
            "skip" leaves it out; the last two are counted in the report.
        answers: which assistant turns of a chat the loss falls on, "all" or "last".
        packing: whether several examples share a row.
        attention: what a token of a packed row sees: its own "document" only, or the "row".
    """

    train: Annotated[tuple[Path, ...] | None, PATHS] = None
    validation: Annotated[tuple[Path, ...] | None, PATHS] = None
    test: Annotated[tuple[Path, ...] | None, PATHS] = None
    generator: Annotated[str | None, text("'file.py:function'")] = None
    sequence_length: Annotated[int, whole(2)] = 512
    too_long: Annotated[str, one_of("refuse", "truncate", "skip")] = "refuse"
    answers: Annotated[str, one_of("all", "last")] = "all"
    packing: Annotated[bool, FLAG] = True
    attention: Annotated[str | None, one_of("document", "row")] = None


@dataclass(frozen=True, kw_only=True)
class AugmentRecipe:
    """Changed copies of the training examples; see `training.augment`.

    Attributes:
        copies: changed copies of each example, beside the example itself.
        character_noise: share of words that get a typing mistake.
        word_swaps: share of words that trade places with a neighbour.
        formatting: how likely letter case, punctuation or spacing of a text is changed.
        wording: TOML file with `[[synonyms]]` and `[[paraphrases]]`.
        wording_rate: share of the places where `wording` applies that are changed.
    """

    copies: Annotated[int, whole(1)] = 1
    character_noise: Annotated[float, number(0, 1)] = 0.0
    word_swaps: Annotated[float, number(0, 1)] = 0.0
    formatting: Annotated[float, number(0, 1)] = 0.0
    wording: Annotated[Path | None, PATH] = None
    wording_rate: Annotated[float | None, number(0, 1)] = None


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """How gradients become steps.

    Attributes:
        betas: of adam, adamw and lion.
        weight_decay: of adamw, lion, sgd, muon and adafactor.
        momentum: of sgd and muon.
    """

    name: Annotated[str, one_of("adamw", "adam", "sgd", "lion", "muon", "adafactor")] = "adamw"
    learning_rate: Annotated[float, number(0, above=True)] = 1e-4
    betas: Annotated[tuple[float, float] | None, PAIR] = None
    weight_decay: Annotated[float | None, number(0, 1)] = None
    momentum: Annotated[float | None, number(0, 0.9999)] = None


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """How the learning rate moves: a linear rise, then the named curve down to `final`.

    Attributes:
        final: share of the learning rate that is left at the last step.
    """

    name: Annotated[str, one_of("constant", "cosine", "linear")] = "constant"
    warmup_steps: Annotated[int, whole(0)] = 0
    final: Annotated[float | None, number(0, 1)] = None


@dataclass(frozen=True, kw_only=True)
class StepsRecipe:
    """How long, and in which portions.

    Attributes:
        steps, epochs: length of the training; give one of them.
        batch_size: rows of a micro-batch (examples of one, where a generator makes them).
        accumulation: micro-batches whose gradients make one step.
        clip_norm: largest norm of a step's gradient; None leaves it as it is.
        workers: threads among which the rows of a micro-batch are shared out, on a CPU; None
            takes the machine's cores. A run keeps the number it began with.
        report_every: steps between points of the loss curve.
        evaluate_every: steps between evaluations on the validation data.
    """

    steps: Annotated[int | None, whole(1)] = None
    epochs: Annotated[int | None, whole(1)] = None
    batch_size: Annotated[int, whole(1)] = 8
    accumulation: Annotated[int, whole(1)] = 1
    clip_norm: Annotated[float | None, number(0, above=True)] = None
    workers: Annotated[int | None, whole(1)] = None
    report_every: Annotated[int, whole(1)] = 10
    evaluate_every: Annotated[int | None, whole(1)] = None


@dataclass(frozen=True, kw_only=True)
class LossRecipe:
    """What is made small, over the answers' tokens.

    Attributes:
        smoothing: of label_smoothing, share of the goal spread over all tokens.
        gamma: of focal, how much easy tokens count less.
        teacher: of kl, the model to follow; it must share the tokenizer.
        temperature: of kl, what both models' logits are divided by.
        weight: of kl, its share; the rest is cross-entropy.
    """

    name: Annotated[str, one_of("cross_entropy", "label_smoothing", "focal", "kl")] = (
        "cross_entropy"
    )
    smoothing: Annotated[float | None, number(0, 0.99)] = None
    gamma: Annotated[float | None, number(0, 10)] = None
    teacher: Annotated[str | None, text("'embedded', a model folder or a hub id")] = None
    temperature: Annotated[float | None, number(0, 100, above=True)] = None
    weight: Annotated[float | None, number(0, 1)] = None


@dataclass(frozen=True, kw_only=True)
class CheckpointRecipe:
    """What is kept while training.

    Attributes:
        every: steps between checkpoints; one more is written at the end.
        keep_last: newest checkpoints that stay.
        keep_best: checkpoints of lowest validation loss that stay besides.
    """

    every: Annotated[int, whole(1)] = 100
    keep_last: Annotated[int, whole(1)] = 2
    keep_best: Annotated[int, whole(0)] = 0


@dataclass(frozen=True, kw_only=True)
class ResultRecipe:
    """What is handed over.

    Attributes:
        weights: those of the "last" step, or of the "best" checkpoint.
        dtype: type they are written in; "auto" leaves them as trained.
    """

    weights: Annotated[str, one_of("last", "best")] = "last"
    dtype: Annotated[str, one_of("auto", "float32", "float16", "bfloat16")] = "auto"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training run. Each attribute is a table of the file, but for `name` and `seed`."""

    name: Annotated[str, text()]
    seed: Annotated[int, whole(0)] = 0
    model: ModelRecipe
    adapter: AdapterRecipe | None = None
    data: DataRecipe
    augment: AugmentRecipe | None = None
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    training: StepsRecipe
    loss: LossRecipe = field(default_factory=LossRecipe)
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    result: ResultRecipe = field(default_factory=ResultRecipe)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON values, paths absolute; `recipe_file.recipe_from` reads it back."""
        return {key: value for key, value in _plain(self).items() if value is not None}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value
