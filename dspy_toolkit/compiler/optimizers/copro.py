"""COPRO: instructions rewritten round by round, each scored on the training examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.compiler.optimizers.row import Cost, Needs, Optimizer, Options, Sizes, Work

if TYPE_CHECKING:
    import dspy


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy.teleprompt import COPRO

    made = COPRO(prompt_model=work.prompt_model, metric=work.metric, **options)
    return made.compile(program, trainset=work.train, eval_kwargs={"num_threads": work.threads})


def _cost(options: Options, sizes: Sizes) -> Cost:
    breadth, depth, count = options["breadth"], options["depth"], sizes.predictors
    # With several predictors every earlier candidate is scored again in each round.
    rounds = depth if count == 1 else depth * (depth + 1) / 2
    return Cost(
        scored=count * breadth * rounds * sizes.train,
        proposed=count * (breadth - 1 + (depth - 1) * breadth),
    )


ROWS = (
    Optimizer(
        name="copro",
        dspy_class="COPRO",
        description="Rewrites each instruction in rounds, shown how earlier ones scored on the "
        "training split.",
        options=(
            Option("breadth", int, 10, "instructions proposed in a round", 2),
            Option("depth", int, 3, "rounds", 1),
            Option("init_temperature", float, 1.4, "of the prompt model", 0, 2),
        ),
        compile=_compile,
        cost=_cost,
        needs=Needs(prompt_model=True),
    ),
)
