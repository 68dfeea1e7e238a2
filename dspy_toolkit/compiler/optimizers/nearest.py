"""KNNFewShot: demonstrations chosen for each question, by nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.compiler.optimizers.row import Cost, Needs, Optimizer, Options, Work

if TYPE_CHECKING:
    import dspy

    from dspy_toolkit.programs.nearest import Shown


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy_toolkit.programs.nearest import Nearest, Pool

    bare = program.reset_copy()
    shown = [_labelled(bare, example) for example in work.train]
    if options["bootstrap"]:
        shown = _bootstrapped(bare, shown, work, options["k"])
    return Nearest(bare, options["k"], Pool(shown))


def _labelled(program: dspy.Module, example: dspy.Example) -> Shown:
    from dspy.adapters.utils import serialize_for_json

    from dspy_toolkit.programs.nearest import Shown

    values = serialize_for_json(example.toDict())
    return Shown(
        inputs=serialize_for_json(example.inputs().toDict()),
        demos={name: values for name, _ in program.named_predictors()},
    )


def _bootstrapped(program: dspy.Module, shown: list[Shown], work: Work, k: int) -> list[Shown]:
    """Each example with the steps of a good answer to it, and as it is where there is none.

    The answer is given with the examples most like it shown, as later, but never itself.
    """
    import dspy
    from dspy.adapters.utils import serialize_for_json

    from dspy_toolkit.compiler.dspy_scope import patient_executor
    from dspy_toolkit.programs.nearest import Nearest, Pool, Shown

    def worked(number: int) -> Shown:
        others = Pool([each for at, each in enumerate(shown) if at != number])
        asked = Nearest(program, k, others).shown_for(work.train[number].inputs())
        with dspy.context(trace=[], **work.teaching):
            try:
                prediction = asked(**work.train[number].inputs())
            except dspy.DSPyError:
                return shown[number]
            trace = list(dspy.settings.trace)
        if not work.metric(work.train[number], prediction, trace):
            return shown[number]
        names = {id(predictor): name for name, predictor in asked.named_predictors()}
        steps: dict[str, Any] = {
            names[id(predictor)]: {"augmented": True, **inputs, **outputs}
            for predictor, inputs, outputs in trace
            if id(predictor) in names
        }
        return Shown(shown[number].inputs, serialize_for_json(steps))

    return list(patient_executor(work.threads).execute(worked, list(range(len(shown)))))


ROWS = (
    Optimizer(
        name="knn_few_shot",
        dspy_class="KNNFewShot",
        description="Shows, at each question, the training examples most like it; they lie in the "
        "artifact, and are compared by their words without a model.",
        options=(
            Option("k", int, 4, "demonstrations shown", 1),
            Option("bootstrap", bool, True, "whether the program's own good answers are shown"),
        ),
        compile=_compile,
        cost=lambda options, sizes: Cost(taught=sizes.train if options["bootstrap"] else 0),
        needs=Needs(teacher=True, metric="any score with a threshold"),
    ),
)
