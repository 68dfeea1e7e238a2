"""The table of optimizers, by name."""

from __future__ import annotations

from dspy_toolkit.compiler.optimizers import (
    avatar,
    copro,
    ensemble,
    few_shot,
    finetune,
    gepa,
    grpo,
    infer_rules,
    mipro,
    nearest,
    race,
    reanchor,
    simba,
)
from dspy_toolkit.compiler.optimizers.row import Optimizer
from dspy_toolkit.errors import NotFound
from dspy_toolkit.errors import nearest as nearest_name

DEFAULT = "bootstrap_few_shot_with_random_search"

OPTIMIZERS: dict[str, Optimizer] = {
    row.name: row
    for family in (
        few_shot, race, nearest, copro, mipro, gepa, simba, infer_rules, avatar, reanchor, finetune,
        ensemble, grpo,
    )
    for row in family.ROWS
}  # fmt: skip


def optimizer(name: str) -> Optimizer:
    """The row of an optimizer.

    Raises:
        NotFound: there is none of this name.
    """
    if name not in OPTIMIZERS:
        raise NotFound(f"optimizer {name!r} does not exist; {nearest_name(name, OPTIMIZERS)}")
    return OPTIMIZERS[name]
