"""Several samples of one call, asked for at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

import dspy

from dspy_toolkit.store.files import sha256_json

T = TypeVar("T")
_MOST_THREADS = 32


def sample_seed(base: int, rollout: Any, number: int) -> int:
    """The seed of a sample, from the model's seed, the call's rollout and the sample's number."""
    if rollout is None and number == 0:
        return base
    return int(sha256_json([base, rollout, number])[:8], 16) >> 1


def in_threads(asks: Sequence[Callable[[], T]]) -> list[T]:
    """Run all at the same time, in the caller's context; the results in order.

    What is streamed goes one after the other, so that a listener can tell the samples apart.

    Raises:
        What the first of them that failed raised, when all have ended.
    """
    if len(asks) == 1 or dspy.settings.send_stream is not None:
        return [ask() for ask in asks]
    with ThreadPoolExecutor(min(len(asks), _MOST_THREADS)) as threads:
        running = [threads.submit(copy_context().run, ask) for ask in asks]
        return [each.result() for each in running]


async def in_tasks(asks: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    """The same for coroutines; the first failure and the caller's leaving end the others."""
    if len(asks) == 1 or dspy.settings.send_stream is not None:
        return [await ask() for ask in asks]
    tasks = [asyncio.create_task(ask()) for ask in asks]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
