"""SIMBA: demonstrations and advice from examples that a program answers now well, now badly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.compiler.optimizers.row import Cost, Needs, Optimizer, Options, Sizes, Work

if TYPE_CHECKING:
    import dspy


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy.teleprompt import SIMBA

    def scored(example: Any, prediction: Any, trace: Any = None) -> Any:
        # SIMBA asks for the score of answers that there are none of.
        return 0.0 if prediction is None else work.metric(example, prediction, trace)

    teaching = None if work.teacher is None else {"lm": work.teacher.copy(temperature=1.0)}
    made = SIMBA(
        metric=scored,
        prompt_model=work.prompt_model,
        teacher_settings=teaching,
        num_threads=work.threads,
        **options,
    )
    return made.compile(program, trainset=work.train, seed=work.seed)


def _cost(options: Options, sizes: Sizes) -> Cost:
    batch, candidates, steps = options["bsize"], options["num_candidates"], options["max_steps"]
    final = len({round(i * steps / candidates) for i in range(candidates + 1)})
    rules = (candidates + 1) / (2 if options["max_demos"] else 1)
    return Cost(
        scored=steps * batch * (2 * candidates + 1) + final * sizes.train,
        # Half of the changes are advice, and about half of those find nothing to learn from.
        proposed=steps * rules / 2,
    )


ROWS = (
    Optimizer(
        name="simba",
        dspy_class="SIMBA",
        description="Samples answers on batches of the training split and learns from those that "
        "vary, by demonstrations and advice.",
        options=(
            Option("bsize", int, 32, "examples of a batch", 1),
            Option("num_candidates", int, 6, "samples of each example, and new programs", 1),
            Option("max_steps", int, 8, "batches", 1),
            Option("max_demos", int, 4, "demonstrations a program holds at most"),
        ),
        compile=_compile,
        cost=_cost,
        needs=Needs(
            teacher=True,
            prompt_model=True,
            train=lambda options: int(options["bsize"]),
        ),
    ),
)
