"""Copies of a model's memory at single tokens, for memories that cannot be cut.

State spaces and convolutions keep only where they have come to. Where prompts part is known once a
second one has come, so a checkpoint is made a little before that place; copies of it are free until
they are written to.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from dspy_toolkit.engine.prefix_tree import PrefixTree, common_length

# A checkpoint is worth making when it saves this many tokens of reading.
_WORTH_IT = 32
# Prompts part at words of which the first tokens may be the same: a checkpoint lies at a multiple
# of so many tokens, so that most of them still share it.
_STEP = 16
# Tokens of earlier prompts that are remembered, to see where new ones part from them.
_REMEMBERED = 1 << 20


@dataclass(frozen=True)
class _Checkpoint:
    tokens: tuple[int, ...]
    cache: list[Any]
    nbytes: int


class Checkpoints:
    """Checkpoints of one model, under a byte budget, least recently used first to go.

    Args:
        model: mlx-lm's module.
        budget_bytes: most that is stored; 0 stores nothing.

    Attributes:
        stored_bytes: what all checkpoints take together.
    """

    def __init__(self, model: Any, budget_bytes: int) -> None:
        self._model = model
        self._budget = budget_bytes
        self._kept: OrderedDict[tuple[int, ...], _Checkpoint] = OrderedDict()
        self._making: tuple[list[int], list[Any], int] | None = None
        self._met: PrefixTree[int] = PrefixTree(
            _REMEMBERED, cost=lambda count: count, split=lambda count, at: (at, count - at)
        )
        self.stored_bytes = 0

    def goal(self, tokens: list[int]) -> int:
        """Where a checkpoint is worth making before these tokens are read; 0 where none is.

        The tokens are met by this: those that come later may part from them.
        """
        common = min(self._met.match(tokens).length, len(tokens) - 1)
        self._met.insert(tokens, lambda begin: len(tokens) - begin)
        goal = common - common % _STEP
        return 0 if self.reached(tokens, goal) else goal

    def reached(self, tokens: list[int], goal: int) -> bool:
        """Whether there is a checkpoint so near to `goal` that another one is not worth it."""
        found = self._find(tokens)
        return not self._budget or goal < (0 if found is None else len(found.tokens)) + _WORTH_IT

    def latest_of(self, tokens: list[int]) -> tuple[int, list[Any]]:
        """Tokens of the longest checkpoint on the way to the last token, and a memory like it."""
        found = self._find(tokens)
        if found is None:
            return 0, make_prompt_cache(self._model)
        self._kept.move_to_end(found.tokens)
        return len(found.tokens), copy.deepcopy(found.cache)

    def read_on(self, wanted: list[int], most: int) -> int:
        """Read up to so many tokens towards a checkpoint after `wanted`; returns how many."""
        if self._making is None or self._making[0] != wanted:
            done, cache = self.latest_of(wanted)
            self._making = (wanted, cache, done)
        _, cache, done = self._making
        some = wanted[done : done + most]
        self._model(mx.array([some]), cache=cache)
        # Unevaluated, the copy would keep the arrays of everything it was made from alive.
        mx.eval([layer.state for layer in cache])
        self._making = (wanted, cache, done + len(some))
        if done + len(some) == len(wanted):
            self._making = None
            self._keep(_Checkpoint(tuple(wanted), cache, sum(layer.nbytes for layer in cache)))
        return len(some)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._met.clear()
        self._making = None
        self.stored_bytes = 0

    def _find(self, tokens: list[int]) -> _Checkpoint | None:
        on_the_way = [
            each
            for each in self._kept.values()
            if len(each.tokens) < len(tokens)
            and common_length(each.tokens, tuple(tokens[: len(each.tokens)])) == len(each.tokens)
        ]
        return max(on_the_way, key=lambda each: len(each.tokens), default=None)

    def _keep(self, made: _Checkpoint) -> None:
        if made.nbytes > self._budget:
            # It would never fit: do not try again.
            self._budget = 0
            return
        self._kept[made.tokens] = made
        self.stored_bytes += made.nbytes
        while self.stored_bytes > self._budget:
            _, oldest = self._kept.popitem(last=False)
            self.stored_bytes -= oldest.nbytes
