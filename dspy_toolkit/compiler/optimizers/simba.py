"""SIMBA: demonstrations and advice from examples that a program answers now well, now badly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.compiler.optimizers.row import Cost, Needs, Optimizer, Options, Sizes, Work

if TYPE_CHECKING:
    import dspy

    from dspy_toolkit.compiler.candidates import CandidateWatch


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy.teleprompt import SIMBA

    from dspy_toolkit.compiler.dspy_scope import hearing

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
    watch = work.candidates
    with nullcontext() if watch is None else hearing(_Lists(watch, options["max_steps"])):
        return made.compile(program, trainset=work.train, seed=work.seed)


class _Lists:
    """Hears of the lists that SIMBA works on: samples and new programs in turn, then the best.

    Samples come from programs that are known already.
    """

    def __init__(self, watch: CandidateWatch, steps: int) -> None:
        self._watch = watch
        self._steps = steps
        self._number = 0
        self._spent = watch.spent()

    def __call__(
        self, pairs: Sequence[Any], results: Sequence[Any], failures: Mapping[int, str]
    ) -> None:
        """Tell of the programs of a list, if they were scored on all of its examples."""
        before, self._spent = self._spent, self._watch.spent()
        samples = self._number % 2 == 0 and self._number < 2 * self._steps
        self._number += 1
        if samples or not pairs:
            return
        programs: dict[int, list[int]] = {}
        for at, (wrapped, _) in enumerate(pairs):
            programs.setdefault(id(wrapped.program), []).append(at)
        share = (self._spent - before).times(1 / len(programs))
        for places in programs.values():
            scored = [(pairs[at][1], float(results[at]["score"])) for at in places]
            told = {
                number: results[at]["failure"]
                for number, at in enumerate(places)
                if results[at]["failure"]
            }
            self._watch.scored(pairs[places[0]][0].program, scored, told, share)


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
