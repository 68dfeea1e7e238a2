"""The table of optimizers: what each is called, needs, takes and does."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.teleprompt import BootstrapFewShot, BootstrapFewShotWithRandomSearch, LabeledFewShot

from dspy_toolkit.compiler.dspy_scope import UNLIMITED
from dspy_toolkit.errors import InvalidInput, nearest, reject_unknown_keys

DEFAULT = "bootstrap_few_shot_with_random_search"


@dataclass(frozen=True)
class Option:
    """One option of an optimizer.

    Attributes:
        kind: `int` or `float`.
        default: used when it is not given; None for "off".
        least, most: bounds, both allowed.
    """

    name: str
    kind: type
    default: Any
    description: str
    least: float = 0
    most: float = float("inf")

    def read(self, value: Any) -> Any:
        """A value from a file, the command line or Python.

        Raises:
            InvalidInput: it is not of the option's kind or outside its bounds.
        """
        if value is None and self.default is None:
            return None
        try:
            number = self.kind(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        fits = isinstance(number, (int, self.kind)) and not isinstance(number, bool)
        if not fits or not self.least <= number <= self.most:
            kind = "whole number" if self.kind is int else "number"
            bounds = f"from {self.least:g}" + (
                "" if self.most == float("inf") else f" to {self.most:g}"
            )
            raise InvalidInput(
                f"optimizer option {self.name} must be a {kind} {bounds}, got {value!r}"
            )
        return self.kind(number)


@dataclass(frozen=True)
class Work:
    """What an optimizer is given. No test example is in it.

    Attributes:
        train: examples that may become demonstrations, already in the run's own order.
        validation: examples to choose between candidates with.
        metric: scores answers; also tells the run how far it is.
        threads: examples in work at once.
    """

    train: list[dspy.Example]
    validation: list[dspy.Example]
    metric: Callable[..., Any]
    threads: int


@dataclass(frozen=True)
class Optimizer:
    """One row of the table.

    Attributes:
        name: as in `task.toml` and on the command line.
        dspy_class: DSPy's name for it.
        description: what it does, in a line.
        options: what it takes.
        compile: makes the better program.
        evaluations: how many examples it scores, known before it starts; None if it depends.
    """

    name: str
    dspy_class: str
    description: str
    options: tuple[Option, ...]
    compile: Callable[[dspy.Module, Work, Mapping[str, Any]], dspy.Module]
    evaluations: Callable[[Mapping[str, Any], int, int], int | None]

    def settle(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option's value: those given, checked, and the defaults.

        Raises:
            UnknownKey: an option it does not have. InvalidInput: a value that does not fit.
        """
        reject_unknown_keys(given, [each.name for each in self.options], f"optimizer {self.name}")
        return {each.name: each.read(given.get(each.name, each.default)) for each in self.options}


def optimizer(name: str) -> Optimizer:
    """The row of an optimizer.

    Raises:
        InvalidInput: there is none of this name.
    """
    if name not in OPTIMIZERS:
        raise InvalidInput(f"optimizer {name!r} does not exist; {nearest(name, OPTIMIZERS)}")
    return OPTIMIZERS[name]


def shuffled(examples: list[dspy.Example], seed: int) -> list[dspy.Example]:
    """The run's own order of the training examples.

    DSPy's few-shot optimizers draw with fixed seeds of their own, so the order they are given is
    the one place where the run's seed can reach them.
    """
    return random.Random(seed).sample(examples, len(examples))


def _labeled(program: dspy.Module, work: Work, options: Mapping[str, Any]) -> dspy.Module:
    return LabeledFewShot(k=options["k"]).compile(program, trainset=work.train)


def _bootstrap(program: dspy.Module, work: Work, options: Mapping[str, Any]) -> dspy.Module:
    made = BootstrapFewShot(metric=work.metric, max_errors=UNLIMITED, **options)
    return made.compile(program, trainset=work.train)


def _random_search(program: dspy.Module, work: Work, options: Mapping[str, Any]) -> dspy.Module:
    settings = dict(options)
    stop_at = settings.pop("stop_at_score")
    made = BootstrapFewShotWithRandomSearch(
        metric=work.metric,
        num_threads=work.threads,
        max_errors=UNLIMITED,
        stop_at_score=None if stop_at is None else 100 * stop_at,
        **settings,
    )
    return made.compile(program, trainset=work.train, valset=work.validation)


_DEMOS = (
    Option("max_bootstrapped_demos", int, 4, "demonstrations made by the program itself", 1),
    Option("max_labeled_demos", int, 16, "demonstrations in all, the rest taken from the data"),
    Option("max_rounds", int, 1, "attempts at each demonstration, the later ones sampled", 1),
)

OPTIMIZERS: dict[str, Optimizer] = {
    row.name: row
    for row in (
        Optimizer(
            "labeled_few_shot",
            "LabeledFewShot",
            "Puts training examples into the prompt as they are; makes no model calls.",
            (Option("k", int, 16, "number of demonstrations", 1),),
            _labeled,
            lambda options, train, validation: 0,
        ),
        Optimizer(
            "bootstrap_few_shot",
            "BootstrapFewShot",
            "Adds demonstrations that the program itself answered well, reasoning included.",
            _DEMOS,
            _bootstrap,
            lambda options, train, validation: None,
        ),
        Optimizer(
            "bootstrap_few_shot_with_random_search",
            "BootstrapFewShotWithRandomSearch",
            "Tries several sets of demonstrations and keeps the best on the validation split.",
            (
                *_DEMOS,
                Option(
                    "num_candidate_programs", int, 16, "sets tried beside the three basic ones", 1
                ),
                Option("stop_at_score", float, None, "end the search at this score", 0, 1),
            ),
            _random_search,
            lambda options, train, validation: (options["num_candidate_programs"] + 3) * validation,
        ),
    )
}
