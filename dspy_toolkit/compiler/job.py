"""A compile run, settled: what it works on, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.compiler.course import Course
from dspy_toolkit.compiler.optimizers import Optimizer, Sizes
from dspy_toolkit.compiler.optimizers.demonstrations import fully_labelled
from dspy_toolkit.programs.artifact import Artifact
from dspy_toolkit.programs.data import Data
from dspy_toolkit.programs.finetune_provider import TrainAdapter
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.metrics import Metric
from dspy_toolkit.programs.modules import ModulePlan


@dataclass(frozen=True)
class Models:
    """What the models of a run are called: as users name each first, DSPy's string for it last.

    Attributes:
        task, teacher, prompt_model: empty where there is none.
    """

    task: tuple[str, ...]
    teacher: tuple[str, ...] = ()
    prompt_model: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Everything a run needs but its models, which are not open yet.

    Attributes:
        name: of the task.
        plan: how the artifact's program is built again.
        program: the bare program; not changed.
        metric: scores answers.
        data: train and validation for the optimizer, test for the two scores.
        format: prompt format.
        optimizer, options: what to do, with every option's value.
        seed: of the training examples' order and of sampling.
        threads: examples in work at once.
        against: what the result is compared with; None for the bare program.
        alpha: error rate of the comparison.
        keep_anyway: whether a result that is worse becomes the artifact all the same.
        adapters: makes a trainer of adapters from its options.
        course: where the run begins, and how far it may go.
        asked: the options it was asked with, see `asked_options`.
        task: folder of the task, where there is one.
    """

    name: str
    plan: ModulePlan
    program: dspy.Module
    metric: Metric
    data: Data
    format: str
    optimizer: Optimizer
    options: Mapping[str, Any]
    seed: int
    threads: int
    against: Artifact | None
    alpha: float
    keep_anyway: bool
    adapters: Callable[..., TrainAdapter] | None = None
    course: Course = field(default_factory=Course)
    asked: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = None

    @property
    def sizes(self) -> Sizes:
        """What a prediction of calls starts from."""
        train = self.data.train.examples
        return Sizes(
            train=len(train),
            validation=len(self.data.validation.examples),
            predictors=len(self.program.predictors()),
            labelled=fully_labelled(self.program, train[0]),
        )


@dataclass(frozen=True, kw_only=True)
class Job(Settled):
    """A run that can begin.

    Attributes:
        lm: the model, already with the run's seed.
        owns_model: whether the model was opened for this run alone.
        teacher: makes demonstrations; None for `lm`.
        prompt_model: writes instructions; None for `lm`.
    """

    lm: LocalLM
    owns_model: bool
    teacher: LocalLM | None = None
    prompt_model: LocalLM | None = None

    @classmethod
    def of(cls, settled: Settled, **models: Any) -> Job:
        """What was settled, with its models."""
        return cls(**{each.name: getattr(settled, each.name) for each in fields(settled)}, **models)

    @property
    def models(self) -> Models:
        """What its models are called."""
        return Models(
            self.lm.names,
            self.teacher.names if self.teacher else (),
            self.prompt_model.names if self.prompt_model else (),
        )

    @property
    def model(self) -> str:
        """The model as the user named it."""
        return self.lm.names[0]


@dataclass(frozen=True)
class CompileResult:
    """What a run gives.

    Attributes:
        report: as in `report.json`; see `report.schema.json` in this package.
        folder: the run's folder.
        artifact: folder of the compiled program, see `load_artifact`; None where the result is
            worse than what it was compared with.
        program: the compiled program, without a language model set.
    """

    report: Mapping[str, Any]
    folder: Path
    artifact: Path | None
    program: dspy.Module
