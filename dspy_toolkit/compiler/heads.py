"""What head models learn from and are judged by: a task's rows, or its program's good answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from dspy_toolkit.compiler.dspy_scope import corrected
from dspy_toolkit.compiler.evaluation import evaluate
from dspy_toolkit.compiler.rival import load_rival
from dspy_toolkit.compiler.statistics import mean_interval
from dspy_toolkit.config import Settings, load_settings
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.cache import under
from dspy_toolkit.programs.formats import prompt_format
from dspy_toolkit.programs.task import Task
from dspy_toolkit.registry import SignatureRecord

Row = dict[str, Any]
AnswerMany = Callable[[Sequence[Mapping[str, Any]]], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Lessons:
    """Flat rows of inputs and outputs to learn from.

    Attributes:
        signature: of the task.
        train, validation: rows by split.
        asked: examples of both splits.
    """

    signature: SignatureRecord
    train: list[Row]
    validation: list[Row]
    asked: int


@dataclass(frozen=True)
class HeadScore:
    """How good answers are on one split of a task.

    Attributes:
        interval: 95 % confidence interval of the score.
        calls_per_s: answers a second, one after the other.
        calls_per_s_in_batches: the same, many at a time.
    """

    task: str
    split: str
    score: float
    interval: tuple[float, float]
    n: int
    calls_per_s: float
    calls_per_s_in_batches: float


def lessons(
    task: Task, artifact: Path | None, settings: Settings | None = None, threads: int | None = None
) -> Lessons:
    """Rows to train heads on.

    Args:
        task: with a signature of the registry.
        artifact: a compiled program, or its run's folder; its answers that reach the metric's
            threshold are learnt from. None takes the examples as they are labelled.
        settings: for opening the program's model.
        threads: examples in work at once.

    Raises:
        InvalidInput: the task has no signature, or no answer is good enough in a split.
        NotFound, IntegrityError, EngineError: of the artifact and its model.
    """
    if task.signature is None:
        raise InvalidInput(
            f"task {task.name} has a program of its own and no signature; heads need one"
        )
    examples = {name: list(task.data.split(name).examples) for name in ("train", "validation")}
    rows = (
        {name: [each.toDict() for each in split] for name, split in examples.items()}
        if artifact is None
        else _answered(task, artifact, examples, settings or load_settings(), threads)
    )
    asked = sum(map(len, examples.values()))
    return Lessons(task.signature, rows["train"], rows["validation"], asked)


def score_heads(task: Task, answer: AnswerMany, split: str = "test") -> HeadScore:
    """Score answers by a task's metric, and time them.

    Args:
        task: whose examples and metric.
        answer: gives the outputs of each of some inputs.
        split: which examples.
    """
    examples = list(task.data.split(split).examples)
    inputs = [example.inputs().toDict() for example in examples]
    answer(inputs[:1])
    began = time.perf_counter()
    alone = [answer([each])[0] for each in inputs]
    one_by_one = time.perf_counter() - began
    began = time.perf_counter()
    answer(inputs)
    together = time.perf_counter() - began
    with closing(task.metric):
        scores = [
            float(task.metric(example, dspy.Prediction(**outputs)))
            for example, outputs in zip(examples, alone, strict=True)
        ]
    count = len(examples)
    return HeadScore(
        task=task.name,
        split=split,
        score=sum(scores) / count,
        interval=mean_interval(scores),
        n=count,
        calls_per_s=count / one_by_one,
        calls_per_s_in_batches=count / together,
    )


def _answered(
    task: Task,
    artifact: Path,
    examples: Mapping[str, list[dspy.Example]],
    settings: Settings,
    threads: int | None,
) -> dict[str, list[Row]]:
    least = task.metric.threshold
    found: dict[str, list[Row]] = {}
    with ExitStack() as cleanup:
        inputs = list(examples["train"][0].inputs().keys())
        teacher = load_rival(artifact, task.plan, inputs)
        lm = teacher.language_model(settings=settings)
        cleanup.callback(lm.release)
        cleanup.enter_context(corrected(lambda line: None))
        cleanup.enter_context(dspy.context(adapter=prompt_format(task.format)))
        cleanup.enter_context(under(settings))
        program = teacher.program(lm)
        for name, split in examples.items():
            rows: dict[int, Row] = {}

            def judge(
                example: dspy.Example, prediction: dspy.Prediction, trace: Any = None,
                rows: dict[int, Row] = rows,
            ) -> float:  # fmt: skip
                score = float(task.metric(example, prediction))
                if score >= least:
                    rows[id(example)] = {**example.inputs().toDict(), **dict(prediction.items())}
                return score

            evaluate(program, split, judge, threads=threads or settings.threads)
            if not rows:
                raise InvalidInput(
                    f"none of {len(split)} {name} answers reaches the metric's threshold of "
                    f"{least:g}; learn from the task's own labels, or from a better program"
                )
            found[name] = [rows[id(each)] for each in split if id(each) in rows]
    return found
