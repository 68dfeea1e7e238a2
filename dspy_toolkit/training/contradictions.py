"""What a recipe's values say against each other."""

from __future__ import annotations

from collections.abc import Iterator

from dspy_toolkit.training.recipe import (
    DataRecipe,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
)

_OPTIONS_OF_LOSS = {
    "cross_entropy": (),
    "label_smoothing": ("smoothing",),
    "focal": ("gamma",),
    "kl": ("teacher", "temperature", "weight"),
}
_OPTIONS_OF_OPTIMIZER = {
    "adam": ("betas",),
    "adamw": ("betas", "weight_decay"),
    "lion": ("betas", "weight_decay"),
    "sgd": ("momentum", "weight_decay"),
    "muon": ("momentum", "weight_decay"),
    "adafactor": ("weight_decay",),
}


def contradictions(recipe: Recipe) -> Iterator[str]:
    """Say, one line each, what in a recipe cannot be meant, and what to do."""
    yield from _of_model(recipe.model)
    if recipe.adapter is not None and recipe.model.mode == "full":
        yield "[adapter] goes with mode 'lora' or 'dora', but mode is 'full'; remove one of them"
    yield from _of_data(recipe.data)
    yield from _of_augmentation(recipe)
    yield from _of_optimizer(recipe.optimizer)
    yield from _of_schedule(recipe.schedule, recipe.training.steps)
    yield from _of_length(recipe)
    yield from _of_loss(recipe.loss)
    yield from _of_checkpoints(recipe)


def _of_model(model: ModelRecipe) -> Iterator[str]:
    if (model.base is None) == (model.config is None):
        yield "[model] needs either base or a table [model.config]; give one of them"
    if model.config is not None:
        if model.tokenizer is None:
            yield "[model] with [model.config] needs tokenizer, a folder with tokenizer.json"
        if model.mode != "full":
            yield f"[model] mode {model.mode!r} adapts a base, but [model.config] makes a new one"
    elif model.tokenizer is not None:
        yield "[model] base brings its own tokenizer; remove tokenizer"


def _of_data(data: DataRecipe) -> Iterator[str]:
    if (data.train is None) == (data.generator is None):
        yield "[data] needs either train or generator; give one of them"
    if data.generator is not None and not all(data.generator.rpartition(":")[::2]):
        yield f"[data] generator must be 'file.py:function', got {data.generator!r}"
    if data.attention is not None and not data.packing:
        yield "[data] attention is about packed rows, but packing is false; remove one of them"


def _of_augmentation(recipe: Recipe) -> Iterator[str]:
    augment = recipe.augment
    if augment is None:
        return
    if recipe.data.generator is not None:
        yield "[augment] changes examples of files, but [data] has a generator; remove one of them"
    if (augment.wording is None) != (augment.wording_rate is None):
        yield "[augment] wording and wording_rate go together; give both or none"
    rates = (augment.character_noise, augment.word_swaps, augment.formatting)
    if not any((*rates, augment.wording_rate)):
        yield "[augment] changes nothing: every rate is 0; raise one or remove the table"


def _of_optimizer(optimizer: OptimizerRecipe) -> Iterator[str]:
    allowed = _OPTIONS_OF_OPTIMIZER[optimizer.name]
    for option in ("betas", "weight_decay", "momentum"):
        if getattr(optimizer, option) is not None and option not in allowed:
            yield f"[optimizer] {optimizer.name} has no {option}; remove it"


def _of_schedule(schedule: ScheduleRecipe, steps: int | None) -> Iterator[str]:
    if schedule.name == "constant" and schedule.final is not None:
        yield "[schedule] a constant rate has no final share; remove it or name another schedule"
    if steps is not None and schedule.warmup_steps >= steps:
        yield (
            f"[schedule] warmup_steps ({schedule.warmup_steps}) must be fewer than the "
            f"{steps} steps of [training]"
        )


def _of_length(recipe: Recipe) -> Iterator[str]:
    training = recipe.training
    if (training.steps is None) == (training.epochs is None):
        yield "[training] needs either steps or epochs; give one of them"
    if training.epochs is not None and recipe.data.generator is not None:
        yield "[training] a generator has no epochs; give steps"
    if training.workers is not None and training.workers > training.batch_size:
        yield (
            f"[training] workers ({training.workers}) share out the {training.batch_size} rows of "
            "a batch; give at most batch_size of them"
        )


def _of_loss(loss: LossRecipe) -> Iterator[str]:
    allowed = _OPTIONS_OF_LOSS[loss.name]
    for option in ("smoothing", "gamma", "teacher", "temperature", "weight"):
        if getattr(loss, option) is not None and option not in allowed:
            yield f"[loss] {loss.name} has no {option}; remove it"
    if loss.name == "kl" and loss.teacher is None:
        yield "[loss] kl needs teacher, a model that shares the tokenizer"


def _of_checkpoints(recipe: Recipe) -> Iterator[str]:
    training, checkpoint = recipe.training, recipe.checkpoint
    evaluates = training.evaluate_every
    if evaluates is not None and recipe.data.validation is None:
        yield "[training] evaluate_every needs [data] validation; give it or remove the interval"
    if recipe.data.validation is not None and evaluates is None:
        yield "[data] validation is never used without [training] evaluate_every; give it"
    if checkpoint.keep_best and evaluates is None:
        yield "[checkpoint] keep_best needs [data] validation and [training] evaluate_every"
    if checkpoint.keep_best and evaluates is not None and checkpoint.every % evaluates:
        yield (
            f"[checkpoint] every ({checkpoint.every}) must be a multiple of evaluate_every "
            f"({evaluates}), so that each checkpoint kept for its loss has one"
        )
    if recipe.result.weights == "best" and not checkpoint.keep_best:
        yield "[result] weights 'best' needs [checkpoint] keep_best of at least 1"
