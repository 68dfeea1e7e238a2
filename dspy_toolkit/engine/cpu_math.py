"""Exponentials on a CPU by NumPy, in the memory where MLX has put the numbers.

MLX's take 12 to 16 ns a number on x86, one at a time; NumPy's take half of one. MLX and NumPy
never work at the same moment here: the arrays are evaluated first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import mlx.core as mx
import numpy as np

_LOWEST = np.float32(-1e30)
# exp of this is far below what one float32 can add to another, and above the denormal numbers,
# with which everything takes a hundred times as long.
_LEAST = np.float32(-60.0)
# Numbers gone over at once: they stay in a core's cache from one pass to the next.
_AT_ONCE = 1 << 18
# Fewer than this are done sooner alone than handed to another thread.
_WORTH_A_THREAD = 1 << 19


def hide(scores: mx.array, width: int, mask: mx.array | str | None) -> None:
    """Put the lowest number in the place of scores that a mask hides.

    Args:
        scores: (rows, shared heads, queries, places), float32, evaluated, in rows one after the
            other; queries are the same `width` tokens, head by head.
        width: tokens of a row.
        mask: booleans that broadcast to (rows, 1, width, places), False where nothing is to be
            seen, evaluated; or "causal", the last token seeing all; or None.
    """
    if mask is None:
        return
    lying = np.array(scores, copy=False)
    rows, shared, queries, places = lying.shape
    by_head = lying.reshape(rows, shared * queries // width, width, places)
    if isinstance(mask, str):
        # Whatever was there before is seen by all of them.
        by_head = by_head[..., places - width :]
        hidden = ~np.tri(width, dtype=bool)
    else:
        hidden = ~np.array(mask, copy=False)
    # Adding is several times quicker than choosing, and lowest plus any score is as low.
    by_head += np.where(hidden, _LOWEST, np.float32(0.0))


def softmax_parts(scores: mx.array) -> tuple[np.ndarray, np.ndarray]:
    """Put exp(score - its row's largest) in the place of each score.

    Args:
        scores: (..., places), float32, evaluated, in rows one after the other.

    Returns:
        (..., 1) each: the largest score of a row, and the sum of its exponentials.
    """
    lying = np.array(scores, copy=False)
    assert lying.flags.c_contiguous
    rows = lying.reshape(-1, lying.shape[-1])
    top = np.empty((len(rows), 1), dtype=np.float32)
    total = np.empty_like(top)

    def work(begin: int, end: int) -> None:
        some = rows[begin:end]
        exponentials(some, top[begin:end])
        np.sum(some, axis=1, keepdims=True, out=total[begin:end])

    _in_slices(work, *rows.shape)
    shape = (*lying.shape[:-1], 1)
    return top.reshape(shape), total.reshape(shape)


def exponentials(scores: np.ndarray, top: np.ndarray) -> None:
    """Put each row's largest score in `top`, and exp(score - largest) in the place of each score.

    Args:
        scores: (rows, places), float32.
        top: (rows, 1), the same.
    """
    np.max(scores, axis=1, keepdims=True, out=top)
    np.subtract(scores, top, out=scores)
    np.maximum(scores, _LEAST, out=scores)
    np.exp(scores, out=scores)


def gate(gates: mx.array, values: mx.array) -> mx.array:
    """silu(gate) * value of each; both float32 and evaluated. The gates are used up."""
    whole = np.array(gates, copy=False)
    lying = whole.reshape(-1, gates.shape[-1])
    others = np.array(values, copy=False).reshape(lying.shape)

    def work(begin: int, end: int) -> None:
        some = lying[begin:end]
        odds = np.negative(some)
        np.exp(odds, out=odds)
        odds += 1.0
        np.multiply(some, others[begin:end], out=some)
        np.divide(some, odds, out=some)

    _in_slices(work, *lying.shape)
    return gates if whole.flags.c_contiguous else mx.array(lying).reshape(gates.shape)


def _in_slices(work: Callable[[int, int], None], rows: int, length: int) -> None:
    """Go over all rows in pieces that fit a cache, on as many threads as that is worth."""
    step = max(1, _AT_ONCE // length)

    def run(begin: int, end: int) -> None:
        # exp of more than 88 is infinite, and dividing by it gives the right limit.
        with np.errstate(over="ignore"):
            for start in range(begin, end, step):
                work(start, min(end, start + step))

    threads = min(cores(), rows * length // _WORTH_A_THREAD)
    if threads < 2:
        run(0, rows)
        return
    share = -(-rows // threads)
    parts = [(begin, min(rows, begin + share)) for begin in range(0, rows, share)]
    others = [threads_pool().submit(run, *part) for part in parts[1:]]
    run(*parts[0])
    for other in others:
        other.result()


@cache
def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def threads_pool() -> ThreadPoolExecutor:
    """Threads for what the one that asks does not do itself."""
    return ThreadPoolExecutor(max(1, cores() - 1), thread_name_prefix="dspy-tk exponentials")
