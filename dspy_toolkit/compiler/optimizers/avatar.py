"""AvatarOptimizer: an agent's instructions, rewritten from what it did well and badly."""

from __future__ import annotations

import random
from statistics import fmean
from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.compiler.optimizers.row import Cost, Needs, Optimizer, Options, Sizes, Work
from dspy_toolkit.errors import InvalidInput

if TYPE_CHECKING:
    import dspy

_PROGRAM = "an agent: module = 'react', or a program with `actor` and `tools` such as dspy's Avatar"


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    import dspy
    from dspy.teleprompt.avatar_optimizer import (
        AvatarOptimizer,
        Comparator,
        FeedbackBasedInstruction,
    )

    class Seeded(AvatarOptimizer):  # type: ignore[misc]  # DSPy ships no types
        """Draws with the run's seed, asks the prompt model, and ends when nothing is to learn."""

        def __init__(self) -> None:
            # DSPy's own asks for a `TypedPredictor`, which DSPy 3 has no more.
            self.__dict__.update(metric=work.metric, optimize_for="max", **options)
            self.comparator = dspy.Predict(Comparator)
            self.feedback_instruction = dspy.Predict(FeedbackBasedInstruction)

        def _get_pos_neg_results(self, actor: Any, trainset: Any) -> Any:
            results = _answered(actor, trainset, work)
            average = fmean(score for _, _, score in results)
            order = random.Random(work.seed).sample(results, len(results))
            good = [_result(each) for each in order if each[2] >= self.upper_bound]
            bad = [_result(each) for each in order if each[2] <= self.lower_bound]
            if not good or not bad:
                raise _NothingToLearn
            return average, good[: self.max_positive_inputs], bad[: self.max_negative_inputs]

    agent = _agent(program)
    made = Seeded()
    lm = work.prompt_model or dspy.settings.lm
    for asked in (made.comparator, made.feedback_instruction):
        asked.set_lm(lm)
    student = _Acting(agent)
    try:
        best = made.compile(student, trainset=work.train)
    except _NothingToLearn:
        best = student
    return best.program


def _answered(agent: Any, examples: Any, work: Work) -> list[tuple[Any, Any, float]]:
    """Each example with its answer and score; DSPy's own threads do not know the model."""
    from dspy_toolkit.compiler.dspy_scope import patient_executor

    def one(example: Any) -> tuple[Any, Any, float]:
        try:
            prediction = agent.program.deepcopy()(**example.inputs())
        except Exception:  # noqa: BLE001  # programs and engines may raise anything
            return example, None, 0.0
        return example, prediction, float(work.metric(example, prediction))

    return list(patient_executor(work.threads).execute(one, list(examples)))


class _NothingToLearn(Exception):
    """No answer is good, or none is bad: there is nothing to compare."""


class _Acting:
    """An agent as AvatarOptimizer handles one: `actor`, `tools`, and answers with `actions`."""

    def __init__(self, program: Any) -> None:
        self.program = program

    @property
    def actor(self) -> Any:
        return self.program.react if hasattr(self.program, "react") else self.program.actor

    @property
    def tools(self) -> list[Any]:
        tools = self.program.tools
        return list(tools.values()) if isinstance(tools, dict) else list(tools)

    def __call__(self, **inputs: Any) -> Any:
        return self.program(**inputs)


def _agent(program: Any) -> Any:
    if not hasattr(program, "tools") or not (
        hasattr(program, "react") or hasattr(program, "actor")
    ):
        raise InvalidInput(f"optimizer avatar_optimizer needs {_PROGRAM}")
    return program.deepcopy()


def _result(found: tuple[Any, Any, float]) -> Any:
    from dspy.predict.avatar.models import ActionOutput
    from dspy.teleprompt.avatar_optimizer import EvalResult

    example, prediction, score = found
    actions = getattr(prediction, "actions", None)
    steps = getattr(prediction, "trajectory", None)
    if actions is None and steps:
        actions = [
            ActionOutput(
                tool_name=str(steps[f"tool_name_{n}"]),
                tool_input_query=str(steps.get(f"tool_args_{n}")),
                tool_output=str(steps.get(f"observation_{n}")),
            )
            for n in range(sum(key.startswith("tool_name_") for key in steps))
        ]
    return EvalResult(example=example.inputs().toDict(), score=score, actions=actions)


def _cost(options: Options, sizes: Sizes) -> Cost:
    return Cost(scored=options["max_iters"] * sizes.train, proposed=2 * options["max_iters"])


ROWS = (
    Optimizer(
        name="avatar_optimizer",
        dspy_class="AvatarOptimizer",
        description="Rewrites an agent's instructions from what it did in good and in bad answers.",
        options=(
            Option("max_iters", int, 10, "rounds over the training split", 1),
            Option("lower_bound", float, 0.0, "an answer up to this score is bad", 0, 1),
            Option("upper_bound", float, 1.0, "an answer from this score on is good", 0, 1),
            Option("max_positive_inputs", int, 10, "good answers shown in a round", 1),
            Option("max_negative_inputs", int, 10, "bad answers shown in a round", 1),
        ),
        compile=_compile,
        cost=_cost,
        needs=Needs(prompt_model=True, program=_PROGRAM),
        unforeseen="an agent makes as many calls as it takes steps, and the rounds end when no "
        "answer is bad",
    ),
)
