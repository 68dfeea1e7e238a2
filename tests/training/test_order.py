from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.training.order import batch_rows, generator, mlx_seed

seeds = st.integers(0, 2**32)


@given(seeds, st.integers(1, 20), st.integers(1, 30), st.integers(1, 4))
def test_every_epoch_deals_every_row_once(seed: int, size: int, rows: int, epochs: int) -> None:
    batches = -(-rows * epochs // size)
    dealt = [row for batch in range(batches) for row in batch_rows(seed, batch, size, rows)]

    for epoch in range(epochs):
        assert sorted(dealt[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@given(seeds, st.integers(0, 1000), st.integers(1, 8), st.integers(1, 50))
def test_a_batch_depends_on_nothing_but_its_number_and_the_seed(
    seed: int, batch: int, size: int, rows: int
) -> None:
    once = batch_rows(seed, batch, size, rows)
    batch_rows(seed + 1, 0, size, rows)

    assert batch_rows(seed, batch, size, rows) == once


def test_seeds_and_epochs_give_different_orders() -> None:
    orders = [batch_rows(seed, epoch, 50, 50) for seed in (0, 1) for epoch in (0, 1)]

    assert len({tuple(order) for order in orders}) == 4


def test_generators_and_mlx_seeds_differ_by_every_key() -> None:
    draws = [generator(*keys).random() for keys in ((0, 0), (0, 1), (1, 0), (0, 0, 0))]

    assert len(set(draws)) == 4
    assert len({mlx_seed(seed, step) for seed in (0, 1) for step in (0, 1)}) == 4


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1"):
        batch_rows(0, 0, 1, 0)
