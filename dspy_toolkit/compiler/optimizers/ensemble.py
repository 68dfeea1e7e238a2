"""Ensemble: the best programs of a random search, which answer by majority."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspy_toolkit.compiler.optimizers.few_shot import (
    CANDIDATES,
    DEMOS,
    random_search,
    search_cost,
)
from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.compiler.optimizers.row import Needs, Optimizer, Options, Work

if TYPE_CHECKING:
    import dspy


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy_toolkit.programs.voting import Voting

    searched = {name: value for name, value in options.items() if name != "size"}
    best = random_search(work, searched).compile(
        program, trainset=work.train, valset=work.validation
    )
    found = [each["program"] for each in best.candidate_programs[: options["size"]]]
    for each in found:
        vars(each).pop("candidate_programs", None)
    return Voting(found)


ROWS = (
    Optimizer(
        name="ensemble",
        dspy_class="Ensemble",
        description="Searches sets of demonstrations at random and lets the best vote on each "
        "field; every answer then costs as many calls as there are members.",
        options=(Option("size", int, 3, "members", 1), *DEMOS, CANDIDATES),
        compile=_compile,
        cost=search_cost,
        needs=Needs(teacher=True, metric="any score with a threshold"),
    ),
)
