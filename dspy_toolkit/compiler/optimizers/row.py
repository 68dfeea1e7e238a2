"""What the table says of an optimizer, and what an optimizer is given.

Nothing here loads DSPy, so that the table is quick to print.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.errors import InvalidInput, reject_unknown_keys

if TYPE_CHECKING:
    import dspy

    from dspy_toolkit.compiler.candidates import CandidateWatch
    from dspy_toolkit.programs.finetune_provider import TrainAdapter
    from dspy_toolkit.programs.lm import LocalLM

Options: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """What an optimizer is given. No test example is in it.

    Attributes:
        train: examples that may become demonstrations, already in the run's own order.
        validation: examples to choose between candidates with.
        metric: scores answers; also tells the run how far it is.
        threads: examples in work at once.
        seed: of everything random.
        lm: the model the program is for; None for the one of the surrounding `dspy.context`.
        teacher: answers in its place where demonstrations are made.
        prompt_model: writes instructions, rules and advice; None for `lm`.
        adapters: makes a trainer of adapters, given its options by name.
        feedback: what the metric says of an answer in words, where it does.
        candidates: hears of candidates that an optimizer scores by itself.
    """

    train: list[dspy.Example]
    validation: list[dspy.Example]
    metric: Callable[..., Any]
    threads: int
    seed: int = 0
    lm: LocalLM | None = None
    teacher: LocalLM | None = None
    prompt_model: LocalLM | None = None
    adapters: Callable[..., TrainAdapter] | None = None
    feedback: Callable[[dspy.Example, dspy.Prediction], str | None] | None = None
    candidates: CandidateWatch | None = None

    @property
    def teaching(self) -> dict[str, Any]:
        """DSPy's `teacher_settings`."""
        return {} if self.teacher is None else {"lm": self.teacher}


@dataclass(frozen=True)
class Sizes:
    """What a prediction of calls starts from.

    Attributes:
        train, validation: numbers of examples.
        predictors: model calls that one run of the program makes.
        good: share of training examples whose answer may become a demonstration.
        labelled: whether the examples say all that the program puts out.
    """

    train: int
    validation: int
    predictors: int = 1
    good: float = 0.5
    labelled: bool = True


@dataclass(frozen=True)
class Cost:
    """What an optimizer is expected to do.

    Attributes:
        scored: runs of the program by its own model, to score or sample answers.
        taught: runs of the program by the teacher, to make demonstrations.
        proposed: calls of the prompt model.
    """

    scored: float = 0
    taught: float = 0
    proposed: float = 0

    def calls(self, predictors: int = 1) -> int:
        """Model calls in all."""
        return round((self.scored + self.taught) * predictors + self.proposed)


@dataclass(frozen=True)
class Needs:
    """What an optimizer needs beside a program, examples and a metric.

    Attributes:
        teacher: whether it can use a teacher.
        prompt_model: whether it calls the prompt model, which has to write well.
        train: least number of training examples, by its options and the table's defaults.
        extras: Python packages it needs beside the toolkit's own.
        program: what kind of program it works on, in words; empty for any.
        metric: what it takes the metric for.
    """

    teacher: bool = False
    prompt_model: bool = False
    train: Callable[[Options], int] = lambda options: 1
    extras: tuple[str, ...] = ()
    program: str = ""
    metric: str = "any score from 0 to 1"


@dataclass(frozen=True)
class Optimizer:
    """One row of the table.

    Attributes:
        name: as in `task.toml` and on the command line.
        dspy_class: DSPy's name for it; None for one of the toolkit's own.
        description: what it does, in a line.
        options: what it takes.
        compile: makes the better program.
        cost: what it is expected to do, from its options and the sizes.
        needs: what it needs.
        unforeseen: why the calls can differ from those predicted by more than 20 %; empty where
            they do not.
        not_durable: why a run cannot be resumed call by call; empty where it can.
        refused: why it cannot be used at all; empty where it can.
    """

    name: str
    dspy_class: str | None
    description: str
    options: tuple[Option, ...]
    compile: Callable[[dspy.Module, Work, Options], dspy.Module]
    cost: Callable[[Options, Sizes], Cost]
    needs: Needs = field(default_factory=Needs)
    unforeseen: str = ""
    not_durable: str = ""
    refused: str = ""

    def settle(self, given: Options) -> dict[str, Any]:
        """Every option's value: those given, checked, and the defaults.

        Raises:
            UnknownKey: an option it does not have. InvalidInput: a value that does not fit.
        """
        reject_unknown_keys(given, [each.name for each in self.options], f"optimizer {self.name}")
        return {each.name: each.read(given.get(each.name, each.default)) for each in self.options}

    def check(self, options: Options, train: int) -> None:
        """Refuse work that this optimizer cannot do, before anything is called.

        Args:
            options: settled.
            train: number of training examples.

        Raises:
            InvalidInput: with what to do.
        """
        if self.refused:
            raise InvalidInput(f"optimizer {self.name} cannot be used: {self.refused}")
        least = self.needs.train(options)
        if train < least:
            raise InvalidInput(
                f"optimizer {self.name} needs at least {least} training examples with these "
                f"options, and the task has {train}; add some, or change its options"
            )

    def facts(self) -> dict[str, Any]:
        """The row as JSON values."""
        defaults = self.settle({})
        return {
            "name": self.name,
            "dspy_class": self.dspy_class,
            "description": self.description,
            "teacher": self.needs.teacher,
            "prompt_model": self.needs.prompt_model,
            "metric": self.needs.metric,
            "program": self.needs.program or None,
            "least_train": self.needs.train(defaults),
            "extras": list(self.needs.extras),
            "calls": None if self.refused else self.cost(defaults, EIGHTY).calls(),
            "unforeseen": self.unforeseen or None,
            "durable": not (self.not_durable or self.refused),
            "not_durable": self.not_durable or None,
            "refused": self.refused or None,
            "options": [each.facts() for each in self.options],
        }


EIGHTY = Sizes(train=80, validation=80)
"""The sizes that the table's calls are given for."""


def shuffled(examples: list[dspy.Example], seed: int) -> list[dspy.Example]:
    """The run's own order of the training examples.

    DSPy's few-shot optimizers draw with fixed seeds of their own, so the order they are given is
    the one place where the run's seed can reach them.
    """
    return random.Random(seed).sample(examples, len(examples))


def attempts(demos: float, options: Options, sizes: Sizes) -> float:
    """Runs that bootstrapping is expected to make for so many demonstrations.

    An example is tried up to `max_rounds` times, and examples are taken until there are enough.
    """
    good = min(max(sizes.good, 1e-6), 1.0)
    each = (1 - (1 - good) ** int(options.get("max_rounds", 1))) / good
    return float(min(demos / good, sizes.train * each))
