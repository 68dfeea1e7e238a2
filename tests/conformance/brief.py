"""Which optimizers take the long tests each time; the others take them with the slow ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

BRIEF = ("bootstrap_few_shot", "miprov2", "race")


def the_rest_slow(names: Iterable[str]) -> list[Any]:
    """Parameters of a test, those of the other optimizers marked slow."""
    return [pytest.param(n, marks=() if n in BRIEF else pytest.mark.slow) for n in names]
