"""The toolkit's own optimizer: many sets of demonstrations race, and losers leave early."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from dspy_toolkit.compiler.optimizers.demonstrations import (
    Demos,
    fully_labelled,
    labelled,
    orders,
    with_demos,
    worked,
)
from dspy_toolkit.compiler.optimizers.option import Option
from dspy_toolkit.compiler.optimizers.row import Cost, Needs, Optimizer, Options, Sizes, Work

if TYPE_CHECKING:
    import dspy

_SHRINKING = (1.0, 0.5, 0.25)
"""Sizes of the sets that one order of demonstrations makes, as shares of the largest."""
_DRAWN = 4
"""How many are drawn at most for each that starts."""


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    from dspy_toolkit.compiler.race import Rules, race

    bare = program.reset_copy()
    rng = random.Random(work.seed)
    contenders = _starters(bare, work, options, rng)
    examples = rng.sample(work.validation, len(work.validation))
    judges = _Judges(contenders, examples, work)
    rules = Rules(_budget(options, len(contenders), len(examples)), options["alpha"])
    sizes = len(contenders), len(examples)
    result = race(judges.scores, *sizes, rules, judges.lead, judges.left)
    return contenders[result.winner]


def _starters(
    bare: dspy.Module, work: Work, options: Options, rng: random.Random
) -> list[dspy.Module]:
    """The first contenders whose prompts fit into the model."""
    import dspy

    from dspy_toolkit.compiler.prompt_sizes import fits

    lm, count = work.lm or dspy.settings.lm, int(options["num_candidate_programs"])
    longest = max(work.validation, key=lambda example: len(str(example.inputs())))
    drawn = islice(_contenders(bare, work, options, rng), _DRAWN * count)
    return list(islice((each for each in drawn if fits(each, longest, lm)), count)) or [bare]


class _Judges:
    """Scores pairs of a contender and an example, several at once."""

    def __init__(
        self, contenders: Sequence[Any], examples: Sequence[dspy.Example], work: Work
    ) -> None:
        self._contenders = contenders
        self._examples = examples
        self._work = work
        self._scored = 0
        self._failed: dict[tuple[int, int], str] = {}
        self._begun = None if work.candidates is None else work.candidates.spent()

    def lead(self, number: int, found: Sequence[float]) -> None:
        """Keep the one that is ahead, for a run whose budget ends before the race does."""
        watch = self._work.candidates
        if watch is not None and self._begun is not None:
            spent = watch.spent() - self._begun
            watch.lead(self._contenders[number], found, spent, self._scored)

    def left(self, number: int, found: Sequence[float]) -> None:
        """Tell of one that is out of the race, or at its end."""
        watch = self._work.candidates
        if watch is not None:
            scored = list(zip(self._examples, found, strict=False))
            # A budget ends the race while its threads may still write down a failure.
            seen = list(self._failed.items())
            failed = {pair[1]: why for pair, why in seen if pair[0] == number}
            watch.tell(self._contenders[number], scored, failed)

    def scores(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        from dspy_toolkit.compiler.dspy_scope import patient_executor

        found = list(patient_executor(self._work.threads).execute(self._one, list(pairs)))
        self._scored += len(pairs)
        return found

    def _one(self, pair: tuple[int, int]) -> float:
        from dspy_toolkit.compiler.dspy_scope import failure_line

        example = self._examples[pair[1]]
        try:
            prediction = self._contenders[pair[0]](**example.inputs())
        except Exception as error:  # noqa: BLE001  # programs and engines may raise anything
            self._failed[pair] = failure_line(error)
            return 0.0
        return float(self._work.metric(example, prediction))


def _contenders(
    bare: dspy.Module, work: Work, options: Options, rng: random.Random
) -> Iterator[dspy.Module]:
    """The bare program, then sets of demonstrations, with every wording of the instructions.

    Sets of one order begin alike, which a model that keeps prefixes reads once.
    """
    wordings = [bare, *_reworded(bare, work, int(options["instructions"]))]
    yield from wordings
    most = min(int(options["max_demos"]), len(work.train))
    made = [orders(pool, rng) for pool in _pools(bare, work, options, most)]
    sizes = list(dict.fromkeys(max(1, round(share * most)) for share in _SHRINKING))
    number = 0
    while most:
        order = next(made[number % len(made)])
        wording = wordings[number % len(wordings)]
        for size in sizes:
            yield with_demos(wording, order[:size])
        number += 1


def _pools(bare: dspy.Module, work: Work, options: Options, most: int) -> list[list[Demos]]:
    pools = [labelled(bare, work.train)]
    if not fully_labelled(bare, work.train[0]):
        good = worked(bare, work, int(options["bootstrap"]), most)
        pools = [good, *pools] if good else pools
    return pools


def _reworded(bare: dspy.Module, work: Work, count: int) -> list[dspy.Module]:
    """The program under instructions that the prompt model writes, without those it repeats."""
    import dspy

    from dspy_toolkit.compiler.optimizers.wording import propose

    found: list[dspy.Module] = []
    known = {tuple(each.signature.instructions for each in bare.predictors())}
    lm = work.prompt_model or dspy.settings.lm
    for number in range(count):
        program = bare.deepcopy()
        asked = lm.copy(rollout_id=number, temperature=1.0)
        for predictor in program.predictors():
            predictor.signature = propose(predictor.signature, work.train, asked)
        told = tuple(each.signature.instructions for each in program.predictors())
        if told not in known:
            known.add(told)
            found.append(program)
    return found


def _budget(options: Options, candidates: int, validation: int) -> int:
    return max(candidates, int(options["share"] * candidates * validation))


def _cost(options: Options, sizes: Sizes) -> Cost:
    candidates = options["num_candidate_programs"]
    return Cost(
        scored=_budget(options, candidates, sizes.validation),
        taught=0 if sizes.labelled else min(options["bootstrap"], sizes.train),
        proposed=options["instructions"] * sizes.predictors,
    )


ROWS = (
    Optimizer(
        name="race",
        dspy_class=None,
        description="Lets many sets of demonstrations race on the validation split, drops losers "
        "after a few examples, and spends the rest on the contenders.",
        options=(
            Option("num_candidate_programs", int, 32, "contenders", 2),
            Option("max_demos", int, 16, "demonstrations of the largest sets"),
            Option(
                "share", float, 0.2, "calls, as a share of scoring every contender in full", 0, 1
            ),
            Option("alpha", float, 0.05, "chance that the best is shown to lose", 0.001, 0.5),
            Option("bootstrap", int, 32, "answers worked out for demonstrations, where needed", 1),
            Option("instructions", int, 0, "wordings asked of the prompt model"),
        ),
        compile=_compile,
        cost=_cost,
        needs=Needs(teacher=True, prompt_model=True),
    ),
)
