"""GEPA: instructions evolved by reflecting on what went wrong, example by example."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.compiler.optimizers.row import Cost, Needs, Optimizer, Options, Sizes, Work
from dspy_toolkit.errors import InvalidInput

if TYPE_CHECKING:
    import dspy

_AUTO = {"light": 6, "medium": 12, "heavy": 18}
_BUDGETS = ("auto", "max_full_evals", "max_metric_calls")
_ACCEPTED = 0.3
"""Share of proposals that are taken to win their small batch, for the prediction alone."""


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    import dspy
    from dspy.teleprompt import GEPA
    from dspy.teleprompt.gepa import InstructionProposer

    from dspy_toolkit.compiler.optimizers.proposals import skipped

    settings = _settled(options)
    built_in = InstructionProposer()

    def proposed(
        candidate: dict[str, str], reflective_dataset: Any, components_to_update: list[str]
    ) -> dict[str, str]:
        try:
            found: dict[str, str] = built_in(candidate, reflective_dataset, components_to_update)
        except dspy.DSPyError as error:
            skipped(error)
            return {name: candidate[name] for name in components_to_update}
        return found

    def judged(
        example: Any, prediction: Any, trace: Any = None, name: Any = None, steps: Any = None
    ) -> Any:
        score = work.metric(example, prediction)
        if name is None:
            return score
        told = work.feedback(example, prediction) if work.feedback else None
        return dspy.Prediction(score=score, feedback=told or _feedback(example, prediction, score))

    made = GEPA(
        metric=judged,
        reflection_lm=work.prompt_model,
        instruction_proposer=proposed,
        num_threads=work.threads,
        seed=work.seed,
        **settings,
    )
    return made.compile(program, trainset=work.train, valset=work.validation)


def _settled(options: Options) -> dict[str, Any]:
    """The options as GEPA takes them: one way to give the budget, `auto` unless another is."""
    given = [name for name in _BUDGETS[1:] if options[name] is not None]
    if len(given) > 1:
        raise InvalidInput(f"optimizer gepa takes one budget; give {given[0]} or {given[1]}")
    return {**options, "auto": None if given else options["auto"] or "light"}


def _feedback(example: Any, prediction: Any, score: float) -> str:
    """What the labels say of an answer, for a metric that gives a number alone."""
    wrong = [
        f"{name} should be {value!r}, the answer was {getattr(prediction, name, None)!r}"
        for name, value in example.labels().items()
        if getattr(prediction, name, None) != value
    ]
    return f"The score is {score:g} of 1. " + ("; ".join(wrong) or "Every field is right.")


def _cost(options: Options, sizes: Sizes) -> Cost:
    settings = _settled(options)
    budget = settings["max_metric_calls"] or (settings["max_full_evals"] or 0) * (
        sizes.train + sizes.validation
    )
    if not budget:
        budget = _auto_budget(_AUTO[settings["auto"]], sizes)
    batch, whole = options["reflection_minibatch_size"], sizes.validation
    rounds = max(0.0, budget - whole) / (2 * batch + _ACCEPTED * whole)
    return Cost(scored=budget, proposed=rounds)


def _auto_budget(candidates: int, sizes: Sizes, batch: int = 35, full_every: int = 5) -> int:
    # As `GEPA.auto_budget` has it.
    trials = int(max(4 * sizes.predictors * math.log2(candidates), 1.5 * candidates))
    fulls = (trials + 1) // full_every + 1 + (1 if trials < full_every else 0)
    return sizes.validation * (1 + fulls) + 5 * candidates + trials * batch


ROWS = (
    Optimizer(
        name="gepa",
        dspy_class="GEPA",
        description="Evolves instructions by reflecting on answers and on feedback about them, and "
        "keeps those that are best on some examples.",
        options=(
            Option("auto", str, "light", "budget in words", choices=tuple(_AUTO)),
            Option("max_full_evals", int, None, "budget in passes over the data", 1),
            Option("max_metric_calls", int, None, "budget in examples scored", 1),
            Option("reflection_minibatch_size", int, 3, "examples reflected on at a time", 1),
            Option(
                "candidate_selection_strategy",
                str,
                "pareto",
                "which program is changed next",
                choices=("pareto", "current_best"),
            ),
            Option("use_merge", bool, True, "whether good programs are crossed"),
            Option("max_merge_invocations", int, 5, "how often at most"),
        ),
        compile=_compile,
        cost=_cost,
        needs=Needs(prompt_model=True, metric="a score, with feedback in words where it has any"),
        unforeseen="the budget is checked between rounds, and a good proposal is scored on the "
        "whole validation split",
    ),
)
