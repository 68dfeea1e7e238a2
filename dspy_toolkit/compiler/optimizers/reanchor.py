"""ReAnchor: thresholds, cuts and weights of a program's decisions, fitted to the metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspy_toolkit.compiler.optimizers.row import Cost, Needs, Optimizer, Options, Work
from dspy_toolkit.errors import InvalidInput

if TYPE_CHECKING:
    import dspy

_PROGRAM = "outputs that are decisions: bool, Literal, Choice, Noul or Score fields"


_DECISIONS = 2
"""Decisions a program is taken to have, for the prediction alone."""


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy.teleprompt.reanchor.calibrate import decision_outputs, predictors
    from dspy.teleprompt.reanchor.reanchor import ReAnchor

    if not predictors(program):
        raise InvalidInput(f"optimizer reanchor needs {_PROGRAM}")
    for _, predictor in predictors(program):
        for name in decision_outputs(predictor):
            if predictor.signature.fields[name].json_schema_extra["desc"] == f"${{{name}}}":
                raise InvalidInput(
                    f"optimizer reanchor asks for probabilities by a field's description, and "
                    f"{name!r} has none; describe it in the signature"
                )
    made = ReAnchor(metric=work.metric, num_threads=work.threads, require_cache=False)
    return made.compile(program, trainset=work.train)


ROWS = (
    Optimizer(
        name="reanchor",
        dspy_class="ReAnchor",
        description="Asks for the probability of each decision and fits where to cut them.",
        options=(),
        compile=_compile,
        # The bare program, then once for each decision; all else is known by then.
        cost=lambda options, sizes: Cost(scored=(1 + _DECISIONS) * sizes.train),
        needs=Needs(program=_PROGRAM),
        unforeseen="each decision is asked for in its turn, and two are taken for granted",
    ),
)
