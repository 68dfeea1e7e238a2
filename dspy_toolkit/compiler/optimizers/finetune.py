"""Optimizers that train the model's weights: BootstrapFinetune, and BetterTogether over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.optimizers.few_shot import CANDIDATES, DEMOS, random_search
from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.compiler.optimizers.row import Cost, Needs, Optimizer, Options, Sizes, Work
from dspy_toolkit.errors import InvalidInput

if TYPE_CHECKING:
    import dspy

_PROMPTS, _WEIGHTS, _THEN = "p", "w", " -> "
_TRAINING = (
    Option("mode", str, "lora", "kind of adapter", choices=("lora", "dora")),
    Option("rank", int, 8, "of the adapter", 1),
    Option("epochs", int, 8, "how often each answer is seen", 1),
    Option("learning_rate", float, None, "highest learning rate; by the model's size if off"),
)
_AGAIN = "its model calls are not made twice, but a training that was cut short starts again"
_PROGRAM = "a model opened from this machine, without an adapter"


def _bootstrap(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    student = _ready(program, work, options)
    return _learner(work).compile(student, trainset=work.train)


def _together(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy.teleprompt import BetterTogether

    searched = {key: options[key] for key in (*(each.name for each in DEMOS), CANDIDATES.name)}
    made = BetterTogether(
        metric=work.metric, **{_PROMPTS: random_search(work, searched), _WEIGHTS: _learner(work)}
    )
    _check_strategy(options["strategy"])
    best = made.compile(
        _ready(program, work, options),
        trainset=work.train,
        valset=work.validation,
        num_threads=work.threads,
        seed=work.seed,
        strategy=options["strategy"],
    )
    if best.flag_compilation_error_occurred and len(best.candidate_programs) == 1:
        raise InvalidInput("better_together failed at its first step; run.log says why")
    del best.flag_compilation_error_occurred
    return best


def _check_strategy(strategy: str) -> None:
    wrong = [step for step in strategy.split(_THEN) if step not in (_PROMPTS, _WEIGHTS)]
    if wrong:
        raise InvalidInput(
            f"strategy {strategy!r} has a step {wrong[0]!r}; join {_PROMPTS} (demonstrations) and "
            f"{_WEIGHTS} (weights) by {_THEN!r}"
        )


def _ready(program: dspy.Module, work: Work, options: Options) -> Any:
    """The program with a model of its own that can be trained."""
    from dspy_toolkit.programs.finetune_provider import tunable

    if work.adapters is None or work.lm is None:
        raise InvalidInput(
            "fine-tuning needs a trainer of adapters; use `dspy-tk compile` or `dspy-tk finetune`, "
            "or give CompileOptions(adapters=...)"
        )
    how = {each.name: options[each.name] for each in _TRAINING}
    student = program.deepcopy()
    student.set_lm(tunable(work.lm, work.adapters(**how, seed=work.seed)))
    return student


def _learner(work: Work) -> Any:
    """DSPy's BootstrapFinetune, given only examples that are answered well."""
    import dspy
    from dspy.teleprompt import BootstrapFinetune

    from dspy_toolkit.compiler.evaluation import evaluate
    from dspy_toolkit.compiler.optimizers.proposals import Routed

    class WellAnswered(BootstrapFinetune):  # type: ignore[misc]  # DSPy ships no types
        """DSPy's ends at the first answer that cannot be read, and keeps every score but zero."""

        def compile(self, student: Any, trainset: Any, teacher: Any = None) -> Any:
            master = teacher or student
            with dspy.context(**work.teaching):
                found = evaluate(master, trainset, _Passing(work.metric), threads=work.threads)
            good = [
                example
                for example, outcome in zip(trainset, found.outcomes, strict=True)
                if outcome.score == 1.0
            ]
            if not good:
                raise InvalidInput(
                    f"none of {len(trainset)} answers reaches the metric's threshold; "
                    "give a --teacher that knows the task"
                )
            return super().compile(student, trainset=good, teacher=teacher)

    # DSPy tells the form of the training data by the adapter's class.
    style = dspy.settings.adapter
    return WellAnswered(
        metric=_Passing(work.metric),
        adapter=style.task if isinstance(style, Routed) else style,
        exclude_demos=True,
        num_threads=work.threads,
    )


class _Passing:
    """The metric as a yes or no."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric

    def __call__(self, example: Any, prediction: Any, trace: Any = None) -> bool:
        return bool(self._metric(example, prediction, []))


def _bootstrap_cost(options: Options, sizes: Sizes) -> Cost:
    # All are asked, then those that were good once more for their traces, which are known by then.
    return Cost(scored=sizes.train)


def _together_cost(options: Options, sizes: Sizes) -> Cost:
    from dspy_toolkit.compiler.optimizers.few_shot import search_cost

    steps = options["strategy"].split(_THEN)
    prompts, weights = steps.count(_PROMPTS), steps.count(_WEIGHTS)
    search = search_cost(options, sizes)
    return Cost(
        scored=prompts * search.scored
        + weights * sizes.train
        + (1 + len(steps)) * sizes.validation,
        taught=prompts * search.taught,
    )


ROWS = (
    Optimizer(
        name="bootstrap_finetune",
        dspy_class="BootstrapFinetune",
        description="Trains an adapter for the model on the program's own good answers.",
        options=_TRAINING,
        compile=_bootstrap,
        cost=_bootstrap_cost,
        needs=Needs(teacher=True, program=_PROGRAM, metric="any score with a threshold"),
        not_durable=_AGAIN,
    ),
    Optimizer(
        name="better_together",
        dspy_class="BetterTogether",
        description="Searches demonstrations and trains the weights in turns, and keeps the best.",
        options=(
            Option("strategy", str, "p -> w -> p", "steps: p for prompts, w for weights"),
            *DEMOS,
            CANDIDATES,
            *_TRAINING,
        ),
        compile=_together,
        cost=_together_cost,
        needs=Needs(teacher=True, program=_PROGRAM, metric="any score with a threshold"),
        not_durable=_AGAIN,
    ),
)
