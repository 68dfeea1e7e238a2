"""ReAnchor: thresholds, cuts and weights of a program's decisions, fitted to the metric."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.optimizers.row import Cost, Needs, Optimizer, Options, Work
from dspy_toolkit.errors import InvalidInput

if TYPE_CHECKING:
    import dspy

    from dspy_toolkit.compiler.candidates import CandidateWatch

_PROGRAM = "outputs that are decisions: bool, Literal, Choice, Noul or Score fields"


_DECISIONS = 2
"""Decisions a program is taken to have, for the prediction alone."""


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy.teleprompt.reanchor.calibrate import decision_outputs, predictors
    from dspy.teleprompt.reanchor.reanchor import ReAnchor

    from dspy_toolkit.compiler.dspy_scope import hearing

    class Watched(ReAnchor):  # type: ignore[misc]  # DSPy ships no types
        """The same, which says what it is working on."""

        program: dspy.Module

        def _score(self, program: dspy.Module, *how: Any, **more: Any) -> Any:
            self.program = program
            return super()._score(program, *how, **more)

    if not predictors(program):
        raise InvalidInput(f"optimizer reanchor needs {_PROGRAM}")
    for _, predictor in predictors(program):
        for name in decision_outputs(predictor):
            if predictor.signature.fields[name].json_schema_extra["desc"] == f"${{{name}}}":
                raise InvalidInput(
                    f"optimizer reanchor asks for probabilities by a field's description, and "
                    f"{name!r} has none; describe it in the signature"
                )
    made = Watched(metric=work.metric, num_threads=work.threads, require_cache=False)
    watch = work.candidates
    with nullcontext() if watch is None else hearing(_Passes(watch, lambda: made.program)):
        return made.compile(program, trainset=work.train)


class _Passes:
    """Hears of each pass over the training examples, and tells of those with new settings."""

    def __init__(self, watch: CandidateWatch, program: Callable[[], dspy.Module]) -> None:
        self._watch = watch
        self._program = program
        self._known: set[str] = set()
        self._spent = watch.spent()

    def __call__(
        self, examples: Sequence[Any], scores: Sequence[Any], failures: Mapping[int, str]
    ) -> None:
        before, self._spent = self._spent, self._watch.spent()
        program = self._program()
        settings = json.dumps([step.fields for step in program.predictors()], default=repr)
        if settings not in self._known:
            self._known.add(settings)
            scored = [(e, score or 0.0) for e, score in zip(examples, scores, strict=True)]
            self._watch.scored(program, scored, failures, self._spent - before)


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
