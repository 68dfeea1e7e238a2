"""Scoring a program on examples, in threads, without losing one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import dspy

from dspy_toolkit.compiler.dspy_scope import failure_line, patient_executor
from dspy_toolkit.compiler.statistics import Interval, mean_interval
from dspy_toolkit.errors import EngineError, InvalidInput, ToolkitError
from dspy_toolkit.programs.calls import Stopped
from dspy_toolkit.programs.data import check_example
from dspy_toolkit.programs.metrics import Metric, MetricError, as_metric

Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class Outcome:
    """One example's result.

    Attributes:
        score: in [0, 1]; 0 when the program failed.
        error: why it failed, in one line, or None.
        unreadable: whether the failure is an answer that could not be read, rather than none.
    """

    score: float
    error: str | None = None
    unreadable: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Scores of a program, one outcome an example, in the examples' order."""

    outcomes: tuple[Outcome, ...]

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.outcomes)

    @property
    def scores(self) -> list[float]:
        """Every example's score."""
        return [outcome.score for outcome in self.outcomes]

    @cached_property
    def score(self) -> float:
        """Mean score in [0, 1]."""
        return fmean(self.scores)

    @cached_property
    def interval(self) -> Interval:
        """95 % confidence interval of the score."""
        return mean_interval(self.scores)

    @property
    def failures(self) -> list[Outcome]:
        """Outcomes of examples on which the program failed."""
        return [outcome for outcome in self.outcomes if outcome.error is not None]


def evaluate(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    metric: str | Metric | Callable[..., Any],
    *,
    threads: int,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a program. The language model is the one of the surrounding `dspy.context`.

    An example on which the program fails scores 0 and keeps the reason.

    Args:
        program: takes the examples' inputs.
        examples: at least one, with their inputs set.
        metric: name of a metric, or a function `(example, prediction, trace=None) -> float`.
        threads: examples in work at once.
        progress: told the number done and their mean score, from any thread, in order.

    Raises:
        InvalidInput: there is no example, one says not what its inputs are, or no metric has
            this name.
        MetricError: the metric is at fault; the first such error ends the evaluation.
        EngineError: the program failed on every example without a single answer to read.
    """
    if not examples:
        raise InvalidInput("there are no examples to evaluate on; give at least one")
    for number, example in enumerate(examples):
        check_example(example, f"example {number}")
    scorer = as_metric(metric, tuple(examples[0].labels().keys()))
    try:
        evaluation = _scored(program, examples, scorer, threads, _Board(progress))
    finally:
        if scorer is not metric:
            scorer.close()
    _refuse_silence(evaluation)
    return evaluation


def _scored(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    metric: Metric,
    threads: int,
    board: _Board,
) -> Evaluation:
    def judged(example: dspy.Example) -> Outcome:
        board.check()
        try:
            outcome = Outcome(float(metric(example, program(**example.inputs()))))
        except MetricError as error:
            board.stop(error)
            raise Stopped(error) from error
        except Exception as error:  # noqa: BLE001  # programs and engines may raise anything
            outcome = Outcome(0.0, failure_line(error), isinstance(error, dspy.AdapterParseError))
        board.add(outcome)
        return outcome

    try:
        outcomes = patient_executor(threads).execute(judged, list(examples))
    except Stopped as stopped:
        raise stopped.error from stopped.error.__cause__
    return Evaluation(tuple(outcomes))


class _Board:
    """What the threads of one evaluation share."""

    def __init__(self, progress: Progress | None) -> None:
        self._lock = threading.Lock()
        self._progress = progress
        self._done = 0
        self._sum = 0.0
        self._error: ToolkitError | None = None

    def add(self, outcome: Outcome) -> None:
        with self._lock:
            self._done += 1
            self._sum += outcome.score
            if self._progress is not None:
                self._progress(self._done, self._sum / self._done)

    def stop(self, error: ToolkitError) -> None:
        with self._lock:
            self._error = self._error or error

    def check(self) -> None:
        if self._error is not None:
            raise Stopped(self._error)


def _refuse_silence(evaluation: Evaluation) -> None:
    failures = evaluation.failures
    if len(failures) == evaluation.n and not any(outcome.unreadable for outcome in failures):
        raise EngineError(f"the program failed on every example; the first: {failures[0].error}")
