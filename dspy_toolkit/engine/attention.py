"""Attention over what rows have in common, once for all of them, and over their own tokens.

The queries of all rows that stand behind a stretch are stacked and multiplied with it once, instead
of once a row. Each part of a row's context gives an unnormalised result together with the maximum
and the sum of its exponentials, and the parts are added up by these, which is exact to rounding.

Source: Juravsky et al., "Hydragen: High-Throughput LLM Inference with Shared Prefixes",
arXiv:2402.05099.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from dspy_toolkit.engine.blocks import attend_blocks, worth_blocks
from dspy_toolkit.engine.cpu_math import hide, softmax_parts
from dspy_toolkit.engine.packing import Packing


@dataclass(frozen=True)
class Shared:
    """Keys and values that several rows of a step look back at.

    Attributes:
        rows: places of these rows in the step, or None for all of them.
        keys, values: (1, shared heads, tokens, size).
        mask: booleans, (rows, 1, width, tokens), False where a query does not see a token; or None
            where all see all.
    """

    rows: list[int] | None
    keys: mx.array
    values: mx.array
    mask: mx.array | None = None


@dataclass(frozen=True)
class _Part:
    """What one part of the context gives: softmax(scores) @ values = out / total.

    Attributes:
        rows: as in `Shared`.
        top: (rows, shared heads, queries, 1), the largest score.
        total: same shape, the sum of exp(score - top).
        out: (rows, shared heads, queries, size), the values weighted by exp(score - top).
    """

    rows: list[int] | None
    top: Any
    total: Any
    out: mx.array


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: mx.array | str | None,
    shared: Sequence[Shared] = (),
    numpy: bool = False,
    packing: Packing | None = None,
) -> mx.array:
    """Softmax attention over shared stretches and each row's own tokens.

    Args:
        queries: (rows, heads, width, size), or (1, heads, tokens, size) with a `packing`.
        keys, values: of each row's own tokens, (rows, shared heads, places, size); heads are a
            multiple of shared heads.
        scale: of the scores.
        mask: over the own tokens: booleans that broadcast to (rows, heads, width, places), False
            where nothing is to be seen; or "causal", the last query seeing all; or None.
        shared: stretches that rows look back at besides.
        numpy: whether NumPy takes the exponentials, for which all is evaluated on the way.
        packing: where rows' queries are, if they are one after the other.

    Returns:
        As the queries are, with the size of values, in the queries' number type.
    """
    scaled = _float(queries) * scale
    own = scaled if packing is None else packing.apart(scaled)
    rows, heads, width, size = own.shape
    own = own.reshape(rows, keys.shape[1], heads // keys.shape[1] * width, size)
    scores = [own @ _float(keys).swapaxes(-1, -2)]
    if not numpy:
        scores[0] = _masked(scores[0], width, mask)
    many = numpy and worth_blocks(rows * own.shape[2])
    in_blocks = [many and each.mask is None for each in shared]
    for each, alone in zip(shared, in_blocks, strict=True):
        if packing is None:
            score = _stack(own, each.rows)
        else:
            score = packing.some(scaled, keys.shape[1], each.rows)
        if not alone:
            score = _hidden(score @ _float(each.keys).swapaxes(-1, -2), each.mask)
        scores.append(score)
    if numpy:
        mx.eval(scores, mask if isinstance(mask, mx.array) else [])
        hide(scores[0], width, mask)
    parts = []
    top: Any
    total: Any
    every = zip((Shared(None, keys, values), *shared), scores, (False, *in_blocks), strict=True)
    for each, score, alone in every:
        if alone:
            top, total, out = attend_blocks(score, each.keys, each.values)
        elif numpy:
            top, total = softmax_parts(score)
            out = score @ _float(each.values)
        else:
            top = score.max(axis=-1, keepdims=True)
            weights = mx.exp(score - top)
            total = weights.sum(axis=-1, keepdims=True)
            out = weights @ _float(each.values)
        found = (top, total, out)
        if packing is not None:
            parts.append(
                _Part(None, *_in_line(found, each.rows, score is scores[0], heads, packing))
            )
        elif score is scores[0]:
            parts.append(_Part(None, *found))
        else:
            parts.append(_Part(each.rows, *(_unstack(a, own.shape[2]) for a in found)))
    result = _joined(parts, rows if packing is None else 1, np if numpy else mx)
    result = result.reshape(*queries.shape[:3], -1)
    return result.astype(queries.dtype)


def _in_line(
    found: tuple[Any, Any, mx.array],
    rows: list[int] | None,
    own: bool,
    heads: int,
    packing: Packing,
) -> Iterator[Any]:
    """What a part gives to the tokens of all rows, in line."""
    for each, fill in zip(found, (-np.inf, 0.0, 0.0), strict=True):
        if own:
            yield packing.together(each, heads)
        else:
            yield each if rows is None else packing.spread(each, rows, fill)


def _float(array: mx.array) -> mx.array:
    """In float32: scores in half precision would be coarser than those of a fused attention."""
    return array if array.dtype == mx.float32 else array.astype(mx.float32)


def _masked(scores: mx.array, width: int, mask: mx.array | str | None) -> mx.array:
    if mask is None:
        return scores
    rows, shared, queries, places = scores.shape
    if isinstance(mask, str):
        mask = mx.arange(places)[None] <= mx.arange(places - width, places)[:, None]
    by_head = scores.reshape(rows, shared * queries // width, width, places)
    hidden = mx.where(mask, by_head, mx.finfo(scores.dtype).min)
    return hidden.reshape(scores.shape)


def _hidden(scores: mx.array, mask: mx.array | None) -> mx.array:
    """A stretch's scores, (1, shared heads, rows * queries, tokens), without what is hidden."""
    if mask is None:
        return scores
    rows, _, width, tokens = mask.shape
    by_row = scores.reshape(scores.shape[1], rows, -1, width, tokens)
    return mx.where(mask, by_row, mx.finfo(scores.dtype).min).reshape(scores.shape)


def _stack(grouped: mx.array, rows: list[int] | None) -> mx.array:
    """(rows, shared heads, queries, size) to (1, shared heads, rows * queries, size)."""
    chosen = grouped if rows is None else grouped[mx.array(rows)]
    return chosen.swapaxes(0, 1).reshape(1, chosen.shape[1], -1, chosen.shape[3])


def _unstack(stacked: Any, queries: int) -> Any:
    """The way back."""
    _, shared, _, size = stacked.shape
    return stacked.reshape(shared, -1, queries, size).swapaxes(0, 1)


def _joined(parts: Sequence[_Part], rows: int, library: Any) -> mx.array:
    """Add up parts over one softmax: the first has all rows, others may have some."""
    if len(parts) == 1:
        return parts[0].out / mx.array(parts[0].total)
    tops = [_spread(part.top, part.rows, rows, -np.inf, library) for part in parts]
    top = tops[0]
    for other in tops[1:]:
        top = library.maximum(top, other)
    shares = [library.exp(each - top) for each in tops]
    total = sum(
        _spread(part.total, part.rows, rows, 0.0, library) * share
        for part, share in zip(parts, shares, strict=True)
    )
    result = mx.zeros((rows, *parts[0].out.shape[1:]))
    for part, share in zip(parts, shares, strict=True):
        weight = mx.array(share / total)
        if part.rows is None:
            result = result + part.out * weight
        else:
            places = mx.array(part.rows)
            result = result.at[places].add(part.out * weight[places])
    return result


def _spread(some: Any, places: list[int] | None, rows: int, fill: float, library: Any) -> Any:
    """Put the rows of a part among all rows."""
    if places is None:
        return some
    every = library.full((rows, *some.shape[1:]), fill, dtype=library.float32)
    every[library.array(places)] = some
    return every
