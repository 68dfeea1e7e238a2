"""The table of techniques."""

from __future__ import annotations

from dspy_toolkit.compression.distill import Distill
from dspy_toolkit.compression.dwq import DWQ
from dspy_toolkit.compression.factorize import Factorize
from dspy_toolkit.compression.mixed import Mixed
from dspy_toolkit.compression.prune import Prune
from dspy_toolkit.compression.quantize import AWQ, GPTQ, RTN
from dspy_toolkit.compression.smooth import SmoothQuant
from dspy_toolkit.compression.technique import Technique
from dspy_toolkit.errors import InvalidInput, nearest

QUANTIZERS = ("rtn", "awq", "smoothquant", "gptq", "dwq", "mixed")

TECHNIQUES: dict[str, Technique] = {
    each.name: each
    for each in (
        RTN(),
        AWQ(),
        SmoothQuant(),
        GPTQ(),
        DWQ(),
        Mixed(),
        Prune(),
        Distill(),
        Factorize(),
    )
}


def technique(name: str) -> Technique:
    """A technique by name.

    Raises:
        InvalidInput: there is none of that name.
    """
    if name not in TECHNIQUES:
        raise InvalidInput(f"method {name!r} does not exist; {nearest(name, TECHNIQUES)}")
    return TECHNIQUES[name]
