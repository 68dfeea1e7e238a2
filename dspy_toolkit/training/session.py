"""One sitting of a training run: open everything, go on from the newest checkpoint, hand over."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import closing
from typing import Any

import mlx.core as mx

from dspy_toolkit.config import Settings
from dspy_toolkit.engine.device import choose_device
from dspy_toolkit.engine.digest import model_digest
from dspy_toolkit.engine.source import download, find_source
from dspy_toolkit.events import CheckpointDamaged, Event, RunResumed, emit, subscribed
from dspy_toolkit.training.backbone import abilities
from dspy_toolkit.training.checkpoints import Checkpoint, Checkpoints
from dspy_toolkit.training.cores import usable_cores
from dspy_toolkit.training.data import data_digests, prepare
from dspy_toolkit.training.gradients import gradient_maker
from dspy_toolkit.training.language_loss import answer_loss, plain_loss
from dspy_toolkit.training.models import frozen_model, on_cpu, start_model
from dspy_toolkit.training.optimizers import learning_rate, make_optimizer
from dspy_toolkit.training.progress import Progress
from dspy_toolkit.training.recipe import Recipe
from dspy_toolkit.training.report import checkpoint_facts, learning_facts, versions
from dspy_toolkit.training.result import write_result
from dspy_toolkit.training.run_folder import RunFolder
from dspy_toolkit.training.stepping import Stepper, mean_loss
from dspy_toolkit.training.tables import InvalidRecipe
from dspy_toolkit.training.trainer import Plan, Trainer


def dependencies(recipe: Recipe, settings: Settings) -> dict[str, str]:
    """Hex SHA-256 of everything a run is made from: data files, base model, teacher, tokenizer."""
    digests = data_digests(recipe)
    for reference in (recipe.model.base, recipe.loss.teacher):
        if reference is not None:
            folder = find_source(reference, fetch=download).folder
            digests[f"model {reference}"] = model_digest(folder, None, settings.home)
    return digests


def settled(recipe: Recipe) -> Recipe:
    """The recipe with what depends on the machine decided, so that a resumed run repeats it.

    Raises:
        InvalidRecipe: more than one worker is asked for on a GPU.
    """
    device, training = choose_device(recipe.model.device, recipe.model.dtype), recipe.training
    if device.name != "cpu" and (training.workers or 1) > 1:
        raise InvalidRecipe(
            f"[training] workers are threads of a CPU, but the run is on {device.name}; "
            "remove workers, or set device = 'cpu' in [model]"
        )
    count = 1 if device.name != "cpu" else min(usable_cores(), training.batch_size)
    return dataclasses.replace(
        recipe, training=dataclasses.replace(training, workers=training.workers or count)
    )


class Session:
    """A recipe with its model and data opened and checked.

    Raises:
        InvalidInput, NotFound, EngineError: something is not in order.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._start = start_model(recipe)
        self._stream = self._start.device.kind
        with mx.stream(self._stream):
            self._able = abilities(self._start.model, self._start.vocabulary)
            self._data = prepare(recipe, self._start.tokenizer, self._able.masks)
            self._loss = answer_loss(recipe.loss, self._able, self._teacher())
        self._steps = self._length()

    def run(self, run: RunFolder) -> dict[str, Any]:
        """Train to the end and hand over; returns the report."""
        damaged: list[str] = []

        def note(event: Event) -> None:
            if isinstance(event, CheckpointDamaged):
                damaged.append(event.reason)

        kept = self._recipe.checkpoint
        with mx.stream(self._stream), on_cpu(self._start, self._recipe.training.workers or 1):
            with subscribed(note):
                checkpoints = Checkpoints(run.run, run.checkpoints, kept.keep_last, kept.keep_best)
            trainer = self._trainer(run.run, checkpoints)
            with closing(trainer.stepper):
                progress = Progress()
                if checkpoints.newest is not None:
                    progress = trainer.restore(checkpoints.newest)
                if progress.step:
                    progress.resumed_at.append(progress.step)
                if progress.step or damaged:
                    emit(RunResumed(run.run, progress.step))
                progress.damaged += damaged
                trainer.run(progress)
            chosen = checkpoints.best if self._recipe.result.weights == "best" else None
            return self._hand_over(run, trainer, progress, chosen or checkpoints.all[-1])

    def _hand_over(
        self, run: RunFolder, trainer: Trainer, progress: Progress, chosen: Checkpoint
    ) -> dict[str, Any]:
        assert trainer.checkpoints is not None
        if chosen.step != progress.step:
            trainer.restore(chosen)
        weights = trainer.checkpoints.load(chosen).weights
        facts = {"kind": "trained", "run": run.run, "step": chosen.step}
        if run.result.exists():
            # A kill between handing over and reporting leaves it; it is written anew.
            shutil.rmtree(run.result)
        write_result(run.result, self._recipe, self._start, weights, facts)
        test = (
            {"loss": mean_loss(self._start.model, plain_loss(self._able), self._data.test)}
            if self._data.test
            else None
        )
        recipe = self._recipe
        return {
            "run": run.run,
            "name": recipe.name,
            "mode": recipe.model.mode,
            "model": recipe.model.base,
            "seed": recipe.seed,
            "device": self._start.device.name,
            "parameters": self._start.parameters,
            **learning_facts(progress),
            "test": test,
            "data": self._data.facts,
            "checkpoints": checkpoint_facts(trainer.checkpoints.all),
            "result": str(run.result),
            "weights_of": chosen.step,
            "resumed_at": progress.resumed_at,
            "damaged": progress.damaged,
            "recipe": recipe.to_dict(),
            "versions": versions(),
            "started_at": run.started_at,
        }

    def _trainer(self, run: str, checkpoints: Checkpoints) -> Trainer:
        recipe, training = self._recipe, self._recipe.training
        optimizer = make_optimizer(recipe.optimizer)
        on_gpu, workers = self._start.device.name != "cpu", training.workers or 1
        return Trainer(
            plan=Plan(
                run=run,
                seed=recipe.seed,
                steps=self._steps,
                accumulation=training.accumulation,
                rate=learning_rate(recipe.schedule, recipe.optimizer.learning_rate, self._steps),
                report_every=training.report_every,
                evaluate_every=training.evaluate_every,
                checkpoint_every=recipe.checkpoint.every,
            ),
            model=self._start.model,
            stepper=Stepper(
                self._start.model,
                optimizer,
                gradient_maker(self._start.model, self._loss, workers, on_gpu),
                training.clip_norm,
                compiled=on_gpu,
            ),
            optimizer=optimizer,
            source=self._data.source,
            validation=self._data.validation,
            validation_loss=plain_loss(self._able),
            checkpoints=checkpoints,
        )

    def _length(self) -> int:
        training = self._recipe.training
        if training.steps is not None:
            return training.steps
        assert training.epochs is not None
        assert self._data.rows is not None
        rows_a_step = training.batch_size * training.accumulation
        steps = max(1, -(-self._data.rows * training.epochs // rows_a_step))
        if self._recipe.schedule.warmup_steps >= steps:
            raise InvalidRecipe(
                f"[schedule] warmup_steps is {self._recipe.schedule.warmup_steps}, but "
                f"{training.epochs} epochs are {steps} steps; lower it or train longer"
            )
        return steps

    def _teacher(self) -> Any:
        reference = self._recipe.loss.teacher
        if reference is None:
            return None
        teacher = frozen_model(reference, self._start.device)
        if teacher.tokenizer.get_vocab() != self._start.tokenizer.get_vocab():
            raise InvalidRecipe(
                f"[loss] teacher {reference!r} has another tokenizer than the model; "
                "choose one that shares it"
            )
        return teacher.model
