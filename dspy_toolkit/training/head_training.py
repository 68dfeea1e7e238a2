"""Training a head model from a task's examples or a program's traces."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.engine.device import choose_device
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.registry import SignatureRecord
from dspy_toolkit.training.augment import Augmenter
from dspy_toolkit.training.backbone import UnsuitableModel, abilities
from dspy_toolkit.training.checkpoints import Checkpoints
from dspy_toolkit.training.head_data import HeadExample, HeadSource, head_batches, usable
from dspy_toolkit.training.head_inputs import InputReader
from dspy_toolkit.training.head_model import HeadFacts, HeadModel, base_digest, width_of
from dspy_toolkit.training.head_specs import HeadSpec, specs_of
from dspy_toolkit.training.heads import HeadLoss, MultiHead, head_loss
from dspy_toolkit.training.models import StartingModel, add_adapter, frozen_model
from dspy_toolkit.training.optimizers import learning_rate, make_optimizer
from dspy_toolkit.training.order import mlx_seed
from dspy_toolkit.training.progress import Progress
from dspy_toolkit.training.recipe import AdapterRecipe, OptimizerRecipe, ScheduleRecipe
from dspy_toolkit.training.stepping import Stepper
from dspy_toolkit.training.trainer import Plan, Trainer


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
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("frozen", "lora", "dora", "full"):
            raise InvalidInput(f"mode must be frozen, lora, dora or full, got {self.mode!r}")
        if (self.adapter is not None) and self.mode not in ("lora", "dora"):
            raise InvalidInput(f"an adapter goes with mode lora or dora, not with {self.mode!r}")


def train_heads(
    record: SignatureRecord,
    train: Sequence[HeadExample],
    validation: Sequence[HeadExample],
    options: HeadOptions | None = None,
    settings: Settings | None = None,
    work: Path | None = None,
) -> HeadModel:
    """Train a head for each output of a signature.

    Args:
        record: the signature.
        train: at least one example; answers no head can give are left out.
        validation: what the best weights are chosen by.
        options: how.
        settings: device, type and home.
        work: folder for checkpoints; a training that stopped there goes on. None uses a
            temporary one.

    Raises:
        InvalidInput: an output is of a type no head gives, or examples are missing.
        TrainingDiverged: the loss became no number.
    """
    options, settings = options or HeadOptions(), settings or load_settings()
    if not train or not validation:
        raise InvalidInput("heads need examples to train on and others to validate with")
    device = choose_device(settings.device, settings.dtype)
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
            trainer = _trainer(model, fitting, judged, specs, read, options, place)
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


def examples_of(record: SignatureRecord, rows: Sequence[Mapping[str, Any]]) -> list[HeadExample]:
    """Examples of flat rows, as in a task's data files or taken from traces."""
    inputs = [each.name for each in record.inputs]
    outputs = [each.name for each in record.outputs]
    return [
        HeadExample(
            {name: row[name] for name in inputs if name in row},
            {name: row[name] for name in outputs if name in row},
        )
        for row in rows
    ]


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
        stepper=Stepper(model, optimizer, loss, options.clip_norm, compiled=False),
        optimizer=optimizer,
        source=HeadSource(train, specs, read, size, seed, options.augment),
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
    if isinstance(wanted, list | tuple) and isinstance(found, list | tuple):
        pairs = zip(wanted, found, strict=False)
        return len(wanted) == len(found) and all(_same(a, b) for a, b in pairs)
    if isinstance(wanted, bool) or isinstance(found, bool) or wanted is None or found is None:
        return wanted is found
    return bool(wanted == found)
