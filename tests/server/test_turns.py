from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from dspy_toolkit.server.turns import Turns


async def rounds(begin: list[bool]) -> list[list[int]]:
    """Who began in which round of the loop; False is one who leaves while waiting."""
    turns, now = Turns(), 0
    began: dict[int, list[int]] = {}

    async def work(number: int) -> None:
        await turns.mine()
        began.setdefault(now, []).append(number)

    tasks = [asyncio.ensure_future(work(number)) for number in range(len(begin))]
    # In this round all ask; the first has its turn at once.
    await asyncio.sleep(0)
    for task, stays in zip(tasks[1:], begin[1:], strict=True):
        if not stays:
            task.cancel()
    for _ in range(3 * len(begin) + 3):
        now += 1
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    return [began[each] for each in sorted(began)]


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_each_begins_in_a_round_of_its_own_in_the_order_they_came(stay: list[bool]) -> None:
    found = asyncio.run(rounds([True, *stay]))

    assert found == [[0], *([n] for n, stays in enumerate(stay, start=1) if stays)]


def test_who_comes_alone_never_waits() -> None:
    async def often() -> int:
        turns = Turns()
        for _ in range(3):
            await asyncio.wait_for(turns.mine(), 1)
            await asyncio.sleep(0)
        return 3

    assert asyncio.run(often()) == 3
