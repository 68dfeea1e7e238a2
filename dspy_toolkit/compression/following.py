"""Letting one model follow another: the training loop under healing, distillation and DWQ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from dspy_toolkit.training.batches import Batch, RowSource, Source
from dspy_toolkit.training.checkpoints import Checkpoints
from dspy_toolkit.training.cores import one_blas_thread, usable_cores
from dspy_toolkit.training.gradients import ManyThreads, OneThread, gradient_maker
from dspy_toolkit.training.language_loss import Loss
from dspy_toolkit.training.optimizers import learning_rate, make_optimizer
from dspy_toolkit.training.packing import Row
from dspy_toolkit.training.progress import Progress
from dspy_toolkit.training.recipe import OptimizerRecipe, ScheduleRecipe
from dspy_toolkit.training.stepping import Stepper, StepResult
from dspy_toolkit.training.trainer import Plan, Trainer

_CHECKPOINT_EVERY = 25
_CLIP_NORM = 1.0

AfterStep = Callable[[int], None]
"""Told the number of each update, from 1, once it is made; may change the weights."""


@dataclass(frozen=True)
class Course:
    """How long and how fast a model follows.

    Attributes:
        steps: updates.
        batch: rows of an update.
        rate: highest learning rate; it rises over a twentieth of the steps.
        seed: of the order of rows and of everything else random.
        on_gpu: whether MLX compiles a step, instead of sharing a batch out over cores.
        schedule: what becomes of the rate after its rise, "cosine" down to zero or "constant".
    """

    steps: int
    batch: int
    rate: float
    seed: int
    on_gpu: bool
    schedule: str = "cosine"

    @property
    def workers(self) -> int:
        """Threads that share a batch."""
        return 1 if self.on_gpu else min(usable_cores(), self.batch)


def follow(
    run: str,
    student: Any,
    loss: Loss,
    source: Source,
    course: Course,
    scratch: Path,
    after: AfterStep | None = None,
) -> dict[str, Any]:
    """Train what is not frozen in a model, going on from the newest checkpoint in `scratch`.

    Args:
        run: id, for events.
        student: changed in place.
        loss: over the arrays of the source's batches.
        source: training batches by number.
        course: how long and how fast.
        scratch: where checkpoints lie.
        after: called after each update.

    Returns:
        Facts for the manifest: the curve of the loss, and steps at which it was resumed.

    Raises:
        TrainingDiverged: the loss is no number any more.
    """
    optimizer = make_optimizer(OptimizerRecipe(name="adamw", weight_decay=0.0))
    gradients = gradient_maker(student, loss, course.workers, course.on_gpu)
    stepper = _Stepper(student, optimizer, gradients, course.on_gpu, after)
    rise = min(course.steps - 1, course.steps // 20)
    schedule = ScheduleRecipe(name=course.schedule, warmup_steps=rise)
    checkpoints = Checkpoints(run, scratch / "checkpoints", keep_last=1, keep_best=0)
    trainer = Trainer(
        plan=Plan(
            run=run,
            seed=course.seed,
            steps=course.steps,
            accumulation=1,
            rate=learning_rate(schedule, course.rate, course.steps),
            report_every=max(1, course.steps // 20),
            evaluate_every=None,
            checkpoint_every=_CHECKPOINT_EVERY,
        ),
        model=student,
        stepper=stepper,
        optimizer=optimizer,
        source=source,
        validation=(),
        validation_loss=loss,
        checkpoints=checkpoints,
    )
    progress = Progress()
    if checkpoints.newest is not None:
        progress = trainer.restore(checkpoints.newest)
        progress.resumed_at.append(progress.step)
    stepper.done = progress.step
    with closing(stepper), nullcontext() if course.workers == 1 else one_blas_thread():
        trainer.run(progress)
    student.eval()
    mx.eval(student.parameters())
    curve = [[int(step), round(loss, 6)] for step, loss, _ in progress.curve]
    return {"steps": course.steps, "curve": curve, "resumed_at": progress.resumed_at}


def rows_source(rows: Sequence[Row], course: Course) -> Source:
    """Batches of some rows, in an order that is a function of the seed."""
    return RowSource(rows, course.batch, course.seed, False, course.workers)


class _Stepper(Stepper):
    """A stepper that tells when an update is made."""

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        gradients: OneThread | ManyThreads,
        compiled: bool,
        after: AfterStep | None,
    ) -> None:
        super().__init__(model, optimizer, gradients, _CLIP_NORM, compiled)
        self._after = after
        self.done = 0

    def step(self, batches: Sequence[Batch], rate: float, seed: int = 0) -> StepResult:
        result = super().step(batches, rate, seed)
        self.done += 1
        if self._after is not None:
            self._after(self.done)
        return result
