"""Optimizers that choose demonstrations: labelled, bootstrapped, or searched for."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    import dspy

BOOTSTRAPPED = Option(
    "max_bootstrapped_demos", int, 4, "demonstrations made by the program itself", 1
)
DEMOS = (
    BOOTSTRAPPED,
    Option("max_labeled_demos", int, 16, "demonstrations in all, the rest taken from the data"),
    Option("max_rounds", int, 1, "attempts at each demonstration, the later ones sampled", 1),
)
CANDIDATES = Option("num_candidate_programs", int, 16, "sets tried beside the three basic ones", 1)


def _labeled(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy.teleprompt import LabeledFewShot

    return LabeledFewShot(k=options["k"]).compile(program, trainset=work.train)


def _bootstrap(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy.teleprompt import BootstrapFewShot

    made = BootstrapFewShot(metric=work.metric, teacher_settings=work.teaching, **options)
    return made.compile(program, trainset=work.train)


def random_search(work: Work, options: Options) -> Any:
    """DSPy's optimizer, ready to compile."""
    from dspy.teleprompt import BootstrapFewShotWithRandomSearch

    settings = dict(options)
    stop_at = settings.pop("stop_at_score", None)
    return BootstrapFewShotWithRandomSearch(
        metric=work.metric,
        teacher_settings=work.teaching,
        num_threads=work.threads,
        stop_at_score=None if stop_at is None else 100 * stop_at,
        **settings,
    )


def _searched(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    made = random_search(work, options)
    return made.compile(program, trainset=work.train, valset=work.validation)


def _optuna(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    import optuna
    from dspy.teleprompt import BootstrapFewShot, BootstrapFewShotWithOptuna

    class Seeded(BootstrapFewShotWithOptuna):  # type: ignore[misc]  # DSPy ships no types
        """The same search with a sampler that has a seed, over demonstrations that may be few."""

        def compile(self, student: Any, **given: Any) -> Any:
            self.valset = given["valset"]
            self.student = student.reset_copy()
            made = BootstrapFewShot(
                metric=self.metric,
                max_bootstrapped_demos=self.max_num_samples,
                max_labeled_demos=self.max_labeled_demos,
                teacher_settings=self.teacher_settings,
                max_rounds=self.max_rounds,
            )
            self.compiled_teleprompter = made.compile(self.student, trainset=given["trainset"])
            if not all(each.demos for each in self.compiled_teleprompter.predictors()):
                return self.compiled_teleprompter
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            study = optuna.create_study(
                direction="maximize", sampler=optuna.samplers.TPESampler(seed=work.seed)
            )
            study.optimize(self.objective, n_trials=self.num_candidate_sets)
            return study.best_trial.user_attrs["program"]

    made = Seeded(
        metric=work.metric,
        teacher_settings=work.teaching,
        num_threads=work.threads,
        **options,
    )
    return made.compile(program, trainset=work.train, valset=work.validation)


def search_cost(options: Options, sizes: Sizes) -> Cost:
    most, candidates = options["max_bootstrapped_demos"], options["num_candidate_programs"]
    drawn = [random.Random(seed).randint(1, most) for seed in range(candidates)]
    return Cost(
        scored=(candidates + 3) * sizes.validation,
        taught=sum(attempts(demos, options, sizes) for demos in (most, *drawn)),
    )


ROWS = (
    Optimizer(
        name="labeled_few_shot",
        dspy_class="LabeledFewShot",
        description="Puts training examples into the prompt as they are; makes no model calls.",
        options=(Option("k", int, 16, "number of demonstrations", 1),),
        compile=_labeled,
        cost=lambda options, sizes: Cost(),
        needs=Needs(metric="none"),
    ),
    Optimizer(
        name="bootstrap_few_shot",
        dspy_class="BootstrapFewShot",
        description="Adds demonstrations that the program itself answered well, reasoning "
        "included.",
        options=DEMOS,
        compile=_bootstrap,
        cost=lambda options, sizes: Cost(
            taught=attempts(options["max_bootstrapped_demos"], options, sizes)
        ),
        needs=Needs(teacher=True, metric="any score with a threshold"),
        unforeseen="it asks until enough answers are good",
    ),
    Optimizer(
        name="bootstrap_few_shot_with_random_search",
        dspy_class="BootstrapFewShotWithRandomSearch",
        description="Tries several sets of demonstrations and keeps the best on the validation "
        "split.",
        options=(
            *DEMOS,
            CANDIDATES,
            Option("stop_at_score", float, None, "end the search at this score", 0, 1),
        ),
        compile=_searched,
        cost=search_cost,
        needs=Needs(teacher=True, metric="any score with a threshold"),
    ),
    Optimizer(
        name="bootstrap_few_shot_with_optuna",
        dspy_class="BootstrapFewShotWithOptuna",
        description="Bootstraps demonstrations once and lets Optuna choose the one that helps "
        "most.",
        options=(*DEMOS, Option("num_candidate_programs", int, 16, "choices tried", 1)),
        compile=_optuna,
        cost=lambda options, sizes: Cost(
            scored=options["num_candidate_programs"] * sizes.validation,
            taught=attempts(options["max_bootstrapped_demos"], options, sizes),
        ),
        needs=Needs(teacher=True, metric="any score with a threshold"),
    ),
)
