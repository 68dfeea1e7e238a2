"""Optimizers by name: what each needs, takes, costs and does. Loads DSPy only to compile."""

from dspy_toolkit.compiler.optimizers.row import Cost, Optimizer, Sizes, Work, shuffled
from dspy_toolkit.compiler.optimizers.table import DEFAULT, OPTIMIZERS, optimizer

__all__ = [
    "DEFAULT",
    "OPTIMIZERS",
    "Cost",
    "Optimizer",
    "Sizes",
    "Work",
    "optimizer",
    "shuffled",
]
