"""How far answers are from the original's, and reading a shared beginning once."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dspy_toolkit.compression.beginning import split
from dspy_toolkit.compression.divergence import Reference
from dspy_toolkit.compression.mixed import rounded
from dspy_toolkit.compression.opened import open_subject, working_device
from dspy_toolkit.compression.packing import Packing
from dspy_toolkit.compression.subject import look_at
from dspy_toolkit.config import Settings
from dspy_toolkit.training.packing import Row

ALIKE = [(11 * each + 3) % 200 for each in range(40)]


def row(*own: int, answer: int = 2) -> Row:
    tokens = np.array([*ALIKE, *own], np.int32)
    goals = np.zeros(len(tokens), np.float32)
    goals[-answer:] = 1.0
    return Row(tokens, goals, np.ones(len(tokens), np.int32), ("here",))


ROWS = [row(5, 6, 7, 8), row(9, 10, 11, 12, 13, 14), row(5, 6, 20, 21, 22, answer=3)]


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        (ROWS, 40),
        # The token before the first goal stays with its row, though all rows have it.
        ([row(5, 6), row(5, 6)], 39),
        ([row(5, 6, answer=20), row(5, 6)], None),
    ],
)
def test_what_rows_begin_with_alike(rows: list[Row], length: int | None) -> None:
    beginning, rest = split(rows)

    assert (None if beginning is None else len(beginning)) == length
    for before, after in zip(rows, rest, strict=True):
        assert list(before.tokens[length or 0 :]) == list(after.tokens)
        assert after.goals.sum() == before.goals.sum()


def test_rows_that_begin_alike_diverge_as_if_each_was_read_whole(
    model: Path, settings: Settings
) -> None:
    device = working_device(settings)
    subject = look_at(str(model), settings)
    with mx.stream(device.kind):
        original, other = (open_subject(subject, device).model for _ in range(2))
        block = other.layers[0].mlp.up_proj
        block.weight = rounded(block.weight, Packing(2, 32))

        found = Reference(original, ROWS, int(subject.config["vocab_size"])).compare(other)

        each = []
        for one in ROWS:
            places = np.flatnonzero(one.goals) - 1
            p, q = (m(mx.array(one.tokens)[None])[0][mx.array(places)] for m in (original, other))
            p, q = (x - mx.logsumexp(x, axis=-1, keepdims=True) for x in (p, q))
            each += (mx.exp(p) * (p - q)).sum(-1).tolist()
    assert found.kl == pytest.approx(sum(each) / len(each), rel=1e-3)
    assert found.kl > 1e-5
    assert found.tokens == 7
