"""Training a head model from a task's examples or a program's traces."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import mlx.core as mx

from dspy_toolkit.config import Settings
from dspy_toolkit.engine.device import choose_device
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.registry import SignatureRecord
from dspy_toolkit.training.backbone import UnsuitableModel, abilities
from dspy_toolkit.training.checkpoints import Checkpoints
from dspy_toolkit.training.cores import usable_cores
from dspy_toolkit.training.gradients import gradient_maker
from dspy_toolkit.training.head_data import HeadSource, head_batches, usable
from dspy_toolkit.training.head_inputs import InputReader
from dspy_toolkit.training.head_model import HeadFacts, HeadModel, base_digest, width_of
from dspy_toolkit.training.head_options import HeadExample, HeadOptions
from dspy_toolkit.training.head_specs import HeadSpec, specs_of
from dspy_toolkit.training.heads import MultiHead, head_loss
from dspy_toolkit.training.models import StartingModel, add_adapter, frozen_model, on_cpu
from dspy_toolkit.training.optimizers import learning_rate, make_optimizer
from dspy_toolkit.training.order import mlx_seed
from dspy_toolkit.training.progress import Progress
from dspy_toolkit.training.recipe import AdapterRecipe, OptimizerRecipe, ScheduleRecipe
from dspy_toolkit.training.stepping import Stepper
from dspy_toolkit.training.trainer import Plan, Trainer


def fit_heads(
    record: SignatureRecord,
    train: Sequence[HeadExample],
    validation: Sequence[HeadExample],
    options: HeadOptions,
    settings: Settings,
    work: Path | None,
) -> HeadModel:
    """See `head_runs.train_heads`."""
    if not train or not validation:
        raise InvalidInput("heads need examples to train on and others to validate with")
    device = choose_device(settings.device, settings.dtype)
    workers = 1 if device.name != "cpu" else options.workers or usable_cores()
    workers = min(workers, options.batch_size)
    mx.random.seed(mlx_seed(options.seed, 0))
    with mx.stream(device.kind):
        start = _backbone(options, frozen_model(options.base, device))
        specs = specs_of(record, [each.outputs for each in train])
        names = tuple(each.name for each in record.inputs)
        read = InputReader(start.tokenizer, names, options.length)
        model = MultiHead(start.model, width_of(start), specs, options.causal)
        mx.eval(model.parameters())
        fitting = usable(train, specs, read)
        judged = usable(validation, specs, read)
        with tempfile.TemporaryDirectory() as temporary:
            place = work or Path(temporary)
            trainer = _trainer(model, fitting, judged, specs, read, options, workers, place)
            with closing(trainer.stepper), on_cpu(start, workers):
                _run(trainer)
        model.eval()
    facts = HeadFacts(
        signature=record.reference,
        signature_digest=record.digest,
        inputs=names,
        specs=tuple(specs),
        base=options.base,
        base_digest=base_digest(options.base, settings),
        mode=options.mode,
        adapter=options.adapter or (AdapterRecipe() if options.mode in ("lora", "dora") else None),
        causal=options.causal,
        length=options.length,
        scores={},
    )
    made = HeadModel(model, start, facts)
    scores = {"validation": accuracy(made, validation)}
    return HeadModel(model, start, dataclasses.replace(facts, scores=scores))


def accuracy(model: HeadModel, examples: Sequence[HeadExample]) -> dict[str, float]:
    """Share of right answers by field, and of examples that are right in every field.

    Numbers count as right when they are equal, texts when they are but for case and spacing.
    """
    predicted = model.predict_many([each.inputs for each in examples])
    fields = [spec.field for spec in model.facts.specs]
    right = {
        name: [
            _same(each.outputs.get(name), found.outputs[name])
            for each, found in zip(examples, predicted, strict=True)
        ]
        for name in fields
    }
    whole = [all(row) for row in zip(*right.values(), strict=True)]
    return {name: sum(each) / len(each) for name, each in {**right, "all": whole}.items()}


def _backbone(options: HeadOptions, start: StartingModel) -> StartingModel:
    able = abilities(start.model, start.vocabulary)
    if not able.splits or (not options.causal and not able.masks):
        raise UnsuitableModel(
            f"heads cannot read the hidden states of {options.base!r}; choose a plain decoder "
            "such as a llama, qwen or mistral"
        )
    if options.mode == "full":
        start.model.unfreeze()
    elif options.mode in ("lora", "dora"):
        add_adapter(start.model, options.adapter or AdapterRecipe(), options.mode)
    return start


def _trainer(
    model: MultiHead,
    train: Sequence[HeadExample],
    validation: Sequence[HeadExample],
    specs: Sequence[HeadSpec],
    read: InputReader,
    options: HeadOptions,
    workers: int,
    work: Path,
) -> Trainer:
    loss = head_loss(specs, options.loss)
    optimizer = make_optimizer(
        OptimizerRecipe(learning_rate=options.learning_rate, weight_decay=options.weight_decay)
    )
    schedule = ScheduleRecipe(name="cosine", warmup_steps=options.warmup_steps, final=0.1)
    size, seed = options.batch_size, options.seed
    return Trainer(
        plan=Plan(
            run="heads",
            seed=seed,
            steps=options.steps,
            accumulation=1,
            rate=learning_rate(schedule, options.learning_rate, options.steps),
            report_every=options.evaluate_every,
            evaluate_every=options.evaluate_every,
            checkpoint_every=options.evaluate_every,
        ),
        model=model,
        stepper=Stepper(
            model,
            optimizer,
            gradient_maker(model, loss, workers, compiled=False),
            options.clip_norm,
            compiled=False,
        ),
        optimizer=optimizer,
        source=HeadSource(train, specs, read, size, seed, options.augment, workers),
        validation=head_batches(validation, specs, read, size),
        validation_loss=loss,
        checkpoints=Checkpoints("heads", work, keep_last=1, keep_best=1),
    )


def _run(trainer: Trainer) -> None:
    checkpoints = trainer.checkpoints
    assert checkpoints is not None
    newest = checkpoints.newest
    trainer.run(Progress() if newest is None else trainer.restore(newest))
    if checkpoints.best is not None:
        trainer.restore(checkpoints.best)


def _same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, str) and isinstance(found, str):
        return " ".join(wanted.split()).casefold() == " ".join(found.split()).casefold()
    if isinstance(wanted, dict) and isinstance(found, dict):
        names = {*filter(wanted.get, wanted), *filter(found.get, found)}
        return all(_same(wanted.get(name), found.get(name)) for name in names)
    if isinstance(wanted, list | tuple) and isinstance(found, list | tuple):
        pairs = zip(wanted, found, strict=False)
        return len(wanted) == len(found) and all(_same(a, b) for a, b in pairs)
    if isinstance(wanted, bool) or isinstance(found, bool) or wanted is None or found is None:
        return wanted is found
    return bool(wanted == found)
