"""MIPROv2: instructions and demonstrations chosen together by Bayesian search."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.optimizers.few_shot import BOOTSTRAPPED
from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.compiler.optimizers.row import (
    Cost,
    Needs,
    Optimizer,
    Options,
    Sizes,
    Work,
    attempts,
)
from dspy_toolkit.errors import InvalidInput

if TYPE_CHECKING:
    import dspy

_AUTO = {"light": (6, 100), "medium": (12, 300), "heavy": (18, 1000)}
_FULL_EVERY = 5
_BATCHED_FROM = 50
_VIEWED = 10
_MOST_VIEWS = 10


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy.teleprompt import MIPROv2

    _check(options)
    made = MIPROv2(
        metric=work.metric,
        prompt_model=work.prompt_model,
        task_model=work.lm,
        teacher_settings=work.teaching,
        num_threads=work.threads,
        # Given here too: DSPy takes a seed of 0 given to `compile` for none.
        seed=work.seed,
        auto=None if options["auto"] == "off" else options["auto"],
        **{
            name: options[name]
            for name in (
                "num_candidates",
                "max_bootstrapped_demos",
                "max_labeled_demos",
                "init_temperature",
            )
        },
    )
    return made.compile(
        program,
        trainset=work.train,
        valset=work.validation,
        num_trials=options["num_trials"],
        seed=work.seed,
        minibatch=_batched(options, len(work.validation)),
        minibatch_size=_batch(options, len(work.validation)),
    )


def _check(options: Options) -> None:
    given = options["num_candidates"], options["num_trials"]
    if options["auto"] != "off" and given != (None, None):
        raise InvalidInput(
            "optimizer miprov2 chooses num_candidates and num_trials itself; "
            "set auto = off to give both"
        )
    if options["auto"] == "off" and None in given:
        raise InvalidInput("optimizer miprov2 with auto off needs num_candidates and num_trials")


def _batch(options: Options, validation: int) -> int:
    return min(int(options["minibatch_size"]), validation)


def _batched(options: Options, validation: int) -> bool:
    if options["auto"] != "off":
        return min(validation, _AUTO[options["auto"]][1]) > _BATCHED_FROM
    return bool(options["minibatch_size"] < validation)


def _cost(options: Options, sizes: Sizes) -> Cost:
    _check(options)
    demos = options["max_bootstrapped_demos"]
    if options["auto"] != "off":
        sets, validation = _AUTO[options["auto"]]
        validation = min(validation, sizes.validation)
        instructions = sets // 2
        trials = int(max(4 * sizes.predictors * math.log2(sets), 1.5 * sets))
    else:
        validation, sets, trials = (
            sizes.validation,
            options["num_candidates"],
            options["num_trials"],
        )
        instructions = sets
    # The first set is bare, the second labelled only, the others draw 1 to `demos`.
    drawn = [demos, *[(1 + demos) / 2] * (sets - 3)] if sets > 2 else []
    views = 1 + min(_MOST_VIEWS - 1, max(0, math.ceil(sizes.train / _VIEWED) - 1)) + 1
    return Cost(
        scored=validation + _trials(options, trials, validation),
        taught=sum(attempts(each, options, sizes) for each in drawn),
        proposed=views + 3 * min(instructions, max(sets, 1)) * sizes.predictors,
    )


def _trials(options: Options, trials: int, validation: int) -> int:
    if not _batched(options, validation):
        return trials * validation
    # DSPy counts its full evaluations as trials of their own, as here.
    last = trials + trials // _FULL_EVERY + 1 + (1 if trials % _FULL_EVERY else 0) - 1
    number, scored = 1, 0
    for _ in range(trials):
        number += 1
        scored += _batch(options, validation)
        if number % (_FULL_EVERY + 1) == 0 or number == last:
            scored += validation
            number += 1
    return scored


def _options() -> tuple[Option, ...]:
    numbers: dict[str, Any] = {"least": 2}
    return (
        Option(
            "auto",
            str,
            "light",
            "how much to try; off to say it by number",
            choices=(*_AUTO, "off"),
        ),
        Option("num_candidates", int, None, "sets of demonstrations, and instructions", **numbers),
        Option("num_trials", int, None, "combinations tried", 1),
        BOOTSTRAPPED,
        Option("max_labeled_demos", int, 4, "demonstrations in all, the rest from the data"),
        Option("minibatch_size", int, 35, "validation examples a trial is scored on", 1),
        Option("init_temperature", float, 1.0, "of the prompt model", 0, 2),
    )


ROWS = (
    Optimizer(
        name="miprov2",
        dspy_class="MIPROv2",
        description="Proposes instructions from the data and searches them together with sets of "
        "demonstrations.",
        options=_options(),
        compile=_compile,
        cost=_cost,
        needs=Needs(teacher=True, prompt_model=True, metric="any score with a threshold"),
    ),
)
