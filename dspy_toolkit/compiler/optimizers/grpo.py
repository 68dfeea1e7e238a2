"""GRPO: reinforcement of the model's weights, which needs a trainer that no local model has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dspy_toolkit.compiler.optimizers.row import Cost, Needs, Optimizer, Options, Work
from dspy_toolkit.errors import InvalidInput

if TYPE_CHECKING:
    import dspy

_WHY = (
    "DSPy's GRPO hands groups of scored answers to a provider with `reinforceable = True` and a "
    "`ReinforceJob` (its own is ArborProvider, a CUDA server); the provider of local models "
    "trains adapters by imitation only; use bootstrap_finetune"
)


def _compile(program: dspy.Module, work: Work, options: Options) -> dspy.Module:
    raise InvalidInput(f"optimizer grpo cannot be used: {_WHY}")


ROWS = (
    Optimizer(
        name="grpo",
        dspy_class="GRPO",
        description="Trains the model's weights by reward on its own sampled answers.",
        options=(),
        compile=_compile,
        cost=lambda options, sizes: Cost(),
        needs=Needs(program="a model whose provider can reinforce"),
        refused=_WHY,
    ),
)
