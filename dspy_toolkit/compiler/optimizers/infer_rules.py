"""InferRules: rules read off the training examples and added to the instructions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.optimizers.few_shot import DEMOS
from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.compiler.optimizers.row import (
    Cost,
    Needs,
    Optimizer,
    Options,
    Work,
    attempts,
)

if TYPE_CHECKING:
    import dspy

_INTRODUCTION = "Please adhere to the following rules when making your prediction:"


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy.teleprompt import InferRules

    class Separate(InferRules):  # type: ignore[misc]  # DSPy ships no types
        """Gives each candidate a signature of its own: DSPy's share one, and so the last rules."""

        def update_program_instructions(self, predictor: Any, rules: str) -> None:
            if rules:
                text = f"{predictor.signature.instructions}\n\n{_INTRODUCTION}\n{rules}"
                predictor.signature = predictor.signature.with_instructions(text)

    made = Separate(
        metric=work.metric,
        teacher_settings=work.teaching,
        num_threads=work.threads,
        **options,
    )
    made.rules_induction_program.teacher_settings = {"lm": work.prompt_model}
    made.rules_induction_program.rng.seed(work.seed)
    return made.compile(program, trainset=work.train, valset=work.validation)


ROWS = (
    Optimizer(
        name="infer_rules",
        dspy_class="InferRules",
        description="Bootstraps demonstrations, then adds rules that the prompt model reads off "
        "the training examples.",
        options=(
            *DEMOS,
            Option("num_candidates", int, 10, "sets of rules tried", 1),
            Option("num_rules", int, 10, "rules asked for", 1),
        ),
        compile=_compile,
        cost=lambda options, sizes: Cost(
            scored=options["num_candidates"] * sizes.validation,
            taught=attempts(options["max_bootstrapped_demos"], options, sizes),
            proposed=options["num_candidates"] * sizes.predictors,
        ),
        needs=Needs(teacher=True, prompt_model=True, metric="any score with a threshold"),
    ),
)
