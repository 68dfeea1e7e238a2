"""Attention over a stretch in blocks of queries, whose scores never leave a core's cache.

Scores of all queries at once are tens of megabytes a layer: each of the products and each pass of
the exponentials would take them from memory and put them back. So the products are asked of the
BLAS that MLX uses, block by block, and each thread takes its own blocks from beginning to end.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import mlx.core as mx
import numpy as np

from dspy_toolkit.engine.blas import loaded_library
from dspy_toolkit.engine.cpu_math import cores, exponentials, threads_pool

# Half a megabyte of scores stays in a core's cache beside the keys and values of a head.
_SCORES_AT_ONCE = 1 << 17
# With fewer queries all scores at once are quicker, and small.
_LEAST_QUERIES = 64
_WORTH_A_THREAD = 1 << 17
_mine = threading.local()
_ROWS_FIRST, _AS_IT_IS, _TURNED = 101, 111, 112


@cache
def can_block() -> bool:
    """Whether there is a BLAS that any thread may ask for products on that thread alone."""
    library = loaded_library()
    return library is not None and hasattr(library, "MKL_Set_Num_Threads_Local")


def worth_blocks(queries: int) -> bool:
    """Whether blocks are quicker for so many queries of each head."""
    return queries >= _LEAST_QUERIES and can_block()


def attend_blocks(
    queries: mx.array, keys: mx.array, values: mx.array
) -> tuple[np.ndarray, np.ndarray, mx.array]:
    """The softmax of queries over one stretch, not divided by its sums yet.

    Args:
        queries: (1, heads, queries, size), scaled.
        keys, values: (1, heads, tokens, size). All float32, evaluated, each head's numbers in rows
            one after the other.

    Returns:
        (1, heads, queries, 1) each: the largest score, and the sum of exp(score - largest).
        (1, heads, queries, size of values): values weighted by exp(score - largest).
    """
    asked, known, held = (np.array(each, copy=False)[0] for each in (queries, keys, values))
    heads, count, _ = asked.shape
    tokens, size = held.shape[1:]
    out = np.empty((heads, count, size), np.float32)
    top, total = (np.empty((heads, count, 1), np.float32) for _ in range(2))
    step = max(_LEAST_QUERIES, _SCORES_AT_ONCE // tokens)
    blocks = [(head, begin) for head in range(heads) for begin in range(0, count, step)]

    def work(mine: Sequence[tuple[int, int]]) -> None:
        blas = _blas()
        room = _room(min(step, count) * tokens).reshape(-1, tokens)
        ones = np.ones((tokens, 1), np.float32)
        for head, begin in mine:
            some = slice(begin, min(begin + step, count))
            scores = room[: some.stop - begin]
            blas.multiply(asked[head, some], known[head], scores, turned=True)
            exponentials(scores, top[head, some])
            blas.multiply(scores, ones, total[head, some])
            blas.multiply(scores, held[head], out[head, some])

    threads = max(1, min(cores(), heads * count * tokens // _WORTH_A_THREAD, len(blocks)))
    others = [threads_pool().submit(work, blocks[n::threads]) for n in range(1, threads)]
    work(blocks[::threads])
    for other in others:
        other.result()
    return top[None], total[None], mx.array(out)[None]


@dataclass(frozen=True)
class _Blas:
    """Products of float32 matrices on the calling thread."""

    library: ctypes.CDLL

    def multiply(
        self, left: np.ndarray, right: np.ndarray, out: np.ndarray, turned: bool = False
    ) -> None:
        """`out` = left @ right, or left @ right.T; each with its rows' numbers side by side."""
        rows, inner = left.shape
        self.library.cblas_sgemm(
            *(_ROWS_FIRST, _AS_IT_IS, _TURNED if turned else _AS_IT_IS),
            *(rows, out.shape[1], inner),
            *(ctypes.c_float(1.0), _at(left), left.strides[0] // 4),
            *(_at(right), right.strides[0] // 4),
            *(ctypes.c_float(0.0), _at(out), out.strides[0] // 4),
        )


def _blas() -> _Blas:
    if not hasattr(_mine, "blas"):
        library = loaded_library()
        assert library is not None
        library.MKL_Set_Num_Threads_Local(1)
        _mine.blas = _Blas(library)
    found: _Blas = _mine.blas
    return found


def _room(numbers: int) -> np.ndarray:
    """Memory for so many, of the calling thread."""
    if not hasattr(_mine, "room") or len(_mine.room) < numbers:
        _mine.room = np.empty(numbers, np.float32)
    found: np.ndarray = _mine.room[:numbers]
    return found


def _at(array: np.ndarray) -> ctypes.c_void_p:
    assert array.strides[1] == array.itemsize
    return ctypes.c_void_p(array.ctypes.data)
