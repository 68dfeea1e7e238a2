"""The loop: steps, evaluations, checkpoints, and stopping well."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dspy_toolkit.errors import IntegrityError, ToolkitError
from dspy_toolkit.events import TrainingEvaluated, TrainingStepped, emit
from dspy_toolkit.training.batches import Batch, Source
from dspy_toolkit.training.checkpoints import Checkpoint, Checkpoints, Snapshot
from dspy_toolkit.training.interrupts import StopRequest
from dspy_toolkit.training.language_loss import Loss
from dspy_toolkit.training.order import mlx_seed
from dspy_toolkit.training.progress import Progress
from dspy_toolkit.training.stepping import Stepper, StepResult, finite, mean_loss

_SHOWN_PLACES = 4


class TrainingDiverged(ToolkitError):
    """The loss, a gradient or a weight is no number any more."""


@dataclass(frozen=True)
class Plan:
    """How a run goes.

    Attributes:
        run: id, for events.
        seed: of dropout and the like.
        steps: updates in all.
        accumulation: micro-batches of an update.
        rate: learning rate by step, from 1.
        report_every, evaluate_every, checkpoint_every: steps; None for never.
    """

    run: str
    seed: int
    steps: int
    accumulation: int
    rate: Callable[[int], float]
    report_every: int
    evaluate_every: int | None
    checkpoint_every: int | None


@dataclass(frozen=True)
class Trainer:
    """Trains a model to the end of its plan.

    Attributes:
        model: what is not frozen is trained.
        stepper: changes the model.
        optimizer: the stepper's, whose state is saved.
        source: training batches by number.
        validation: batches to evaluate on.
        validation_loss: what evaluations report.
        checkpoints: where the run is kept, or None.
    """

    plan: Plan
    model: Any
    stepper: Stepper
    optimizer: Any
    source: Source
    validation: Sequence[Batch]
    validation_loss: Loss
    checkpoints: Checkpoints | None

    def restore(self, checkpoint: Checkpoint) -> Progress:
        """Put model and optimizer where they were at a checkpoint."""
        assert self.checkpoints is not None
        snapshot = self.checkpoints.load(checkpoint)
        self.model.load_weights(list(snapshot.weights.items()), strict=False)
        _put(self.optimizer.state, snapshot.optimizer)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        return Progress.load(snapshot.state["progress"])

    def run(self, progress: Progress) -> Progress:
        """Go on from `progress` to the last step.

        Raises:
            TrainingDiverged: a step gave no number. The last checkpoint is from before it.
            StorageError: a checkpoint could not be written. Those before it stay.
            KeyboardInterrupt: asked to stop; the state is saved as a checkpoint first.
        """
        began, first = time.perf_counter(), progress.step
        with StopRequest() as stop:
            while progress.step < self.plan.steps:
                if stop.asked:
                    self.save(progress)
                    raise KeyboardInterrupt
                self._step(progress)
                self._announce(progress, time.perf_counter() - began, progress.step - first)
                if _due(progress.step, self.plan.evaluate_every) and self.validation:
                    self._evaluate(progress)
                if _due(progress.step, self.plan.checkpoint_every):
                    self.save(progress)
        self.save(progress)
        return progress

    def save(self, progress: Progress) -> Checkpoint | None:
        """Write a checkpoint of where the run is."""
        if self.checkpoints is None or progress.step == 0:
            return None
        if not finite(self.model):
            raise TrainingDiverged(
                f"a weight is no number after step {progress.step}; {self._way_out()}"
            )
        snapshot = Snapshot(
            weights=dict(tree_flatten(self.model.trainable_parameters())),
            optimizer=dict(tree_flatten(self.optimizer.state)),
            state={"progress": progress.dump()},
        )
        return self.checkpoints.save(progress.step, progress.loss_at(progress.step), snapshot)

    def _step(self, progress: Progress) -> None:
        began = time.perf_counter()
        step, share = progress.step + 1, self.plan.accumulation
        batches = [self.source.batch((step - 1) * share + i) for i in range(share)]
        rate = self.plan.rate(step)
        # A seed for each step leaves no random state to carry from step to step.
        result = self.stepper.step(batches, rate, mlx_seed(self.plan.seed, step))
        if not result.finite:
            raise self._diverged(step, batches, result)
        tokens = sum(batch.tokens for batch in batches)
        progress.advance(result.loss, result.weight, tokens, time.perf_counter() - began)
        if _due(step, self.plan.report_every) or step == self.plan.steps:
            progress.close_window(rate)

    def _evaluate(self, progress: Progress) -> None:
        loss = mean_loss(self.model, self.validation_loss, self.validation)
        progress.evaluations.append([progress.step, loss])
        emit(TrainingEvaluated(self.plan.run, progress.step, loss))

    def _announce(self, progress: Progress, seconds: float, done: int) -> None:
        last = progress.window if progress.window[1] else None
        loss = last[0] / last[1] if last else progress.curve[-1][1]
        emit(
            TrainingStepped(
                run=self.plan.run,
                step=progress.step,
                steps=self.plan.steps,
                loss=loss,
                tokens_per_s=progress.tokens / max(progress.seconds, 1e-9),
                seconds_left=seconds / done * (self.plan.steps - progress.step),
            )
        )

    def _diverged(
        self, step: int, batches: Sequence[Batch], result: StepResult
    ) -> TrainingDiverged:
        wrong = [i for i, loss in enumerate(result.losses) if not math.isfinite(loss)]
        index = wrong[0] if wrong else 0
        what = "the loss" if wrong else "the gradient"
        guilty = batches[index : index + 1] if wrong else batches
        places = [place for batch in guilty for place in batch.places]
        more = f" and {len(places) - _SHOWN_PLACES} more" if len(places) > _SHOWN_PLACES else ""
        return TrainingDiverged(
            f"{what} is no number at step {step}, "
            f"batch {(step - 1) * self.plan.accumulation + index} "
            f"({', '.join(places[:_SHOWN_PLACES])}{more}); {self._way_out()}"
        )

    def _way_out(self) -> str:
        newest = self.checkpoints.newest if self.checkpoints else None
        kept = f"the checkpoint of step {newest.step} is kept; " if newest else ""
        return f"{kept}lower learning_rate, add clip_norm, or look at those examples"


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _put(state: Any, saved: Mapping[str, mx.array]) -> None:
    """Set every array of an optimizer's state in place: a compiled step holds on to it."""
    if dict(tree_flatten(state)).keys() != saved.keys():
        raise IntegrityError(
            "the checkpoint's optimizer state is of another model or optimizer; start a new run"
        )
    for path, array in saved.items():
        *way, last = path.split(".")
        place = state
        for key in way:
            place = place[int(key) if isinstance(place, list) else key]
        place[last] = array
