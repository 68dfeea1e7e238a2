"""Sets of demonstrations for a race: balanced over the answers, sizes nested in one order."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.optimizers.row import Work

if TYPE_CHECKING:
    import dspy

Demos = dict[str, "dspy.Example"]
"""One worked example: what each predictor, by name, is shown of it."""


def fully_labelled(program: dspy.Module, example: dspy.Example) -> bool:
    """Whether an example says all that the program puts out."""
    predictors = program.predictors()
    if len(predictors) > 1:
        return False
    return set(predictors[0].signature.output_fields) <= set(example.labels().keys())


def labelled(program: dspy.Module, examples: Sequence[dspy.Example]) -> list[Demos]:
    """The examples as they are, for every predictor."""
    names = [name for name, _ in program.named_predictors()]
    return [dict.fromkeys(names, example) for example in examples]


def worked(program: dspy.Module, work: Work, count: int, shown: int) -> list[Demos]:
    """The steps of the program's good answers to the first training examples.

    Args:
        program: bare.
        work: whose training examples, teacher and metric.
        count: examples tried.
        shown: labelled examples that the teacher sees, none of them among those tried where there
            are enough.
    """
    import dspy

    from dspy_toolkit.compiler.dspy_scope import patient_executor

    rest = work.train[count:] or work.train

    def one(example: dspy.Example) -> Demos | None:
        asked = program.deepcopy()
        for predictor in asked.predictors():
            predictor.demos = [each for each in rest[:shown] if each is not example]
        with dspy.context(trace=[], **work.teaching):
            try:
                prediction = asked(**example.inputs())
            except Exception:  # noqa: BLE001  # programs and engines may raise anything
                return None
            trace = list(dspy.settings.trace)
        if not work.metric(example, prediction, trace):
            return None
        names = {id(predictor): name for name, predictor in asked.named_predictors()}
        return {
            names[id(predictor)]: dspy.Example(augmented=True, **inputs, **outputs)
            for predictor, inputs, outputs in trace
            if id(predictor) in names
        }

    found = patient_executor(work.threads).execute(one, work.train[:count])
    return [demos for demos in found if demos is not None]


def orders(pool: Sequence[Demos], rng: random.Random) -> Iterator[list[Demos]]:
    """Orders of a pool without end, whose first few show as many different answers as can be.

    A pool whose answers hardly repeat is shuffled alone.
    """
    groups: dict[str, list[Demos]] = defaultdict(list)
    for demos in pool:
        groups[_answer(demos)].append(demos)
    kinds = list(groups.values()) if 2 * len(groups) <= len(pool) else [list(pool)]
    while True:
        piles = [rng.sample(kind, len(kind)) for kind in rng.sample(kinds, len(kinds))]
        deepest = max(map(len, piles))
        yield [pile[depth] for depth in range(deepest) for pile in piles if depth < len(pile)]


def _answer(demos: Demos) -> str:
    last = list(demos.values())[-1]
    answers = last.labels().toDict() if last._input_keys else last.toDict()
    return json.dumps(answers, default=str, sort_keys=True)


def with_demos(program: dspy.Module, chosen: Sequence[Demos]) -> Any:
    """A copy of the program that shows these."""
    copy = program.deepcopy()
    for name, predictor in copy.named_predictors():
        predictor.demos = [demos[name] for demos in chosen if name in demos]
    return copy
