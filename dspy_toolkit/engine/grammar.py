"""Holding an answer to a grammar: which tokens may come next, and which must.

llguidance does the work. A grammar is read once and kept; each row walks a copy of it.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import fill_next_token_bitmask_par

_KEPT = 64
# Whitespace of a JSON answer: none, a space, or a new line with its indent. Left free, a model that
# likes new lines writes them forever.
_WHITESPACE = {"whitespace_pattern": r"( |\n {0,16})?"}


class GrammarBroken(ValueError):
    """A grammar or a schema cannot be used; the message says why."""


class GrammarStuck(RuntimeError):
    """A row's grammar failed halfway, through no fault of the model."""


class Grammar:
    """A grammar that rows can be held to.

    Attributes:
        tokenizer: llguidance's, of the model.
    """

    def __init__(self, matcher: LLMatcher, tokenizer: Any, eos: int) -> None:
        self.tokenizer = tokenizer
        self._matcher = matcher
        self._eos = eos
        self._begun: tuple[list[int], LLMatcher] | None = None

    def start(self, answer: list[int]) -> Guide:
        """A walk through the grammar that has come as far as `answer`."""
        if not answer:
            return self._begin()
        guide = self._guide(self._matcher)
        for token in answer:
            guide.take(token)
        return guide

    def _begin(self) -> Guide:
        """A walk that knows what must come first: that is found once for all walks."""
        if self._begun is None:
            first = self._guide(self._matcher)
            self._begun = first.forced(), first._matcher
        tokens, matcher = self._begun
        guide = self._guide(matcher)
        guide._first = tokens
        return guide

    def _guide(self, matcher: LLMatcher) -> Guide:
        return Guide(matcher.deep_copy(), self._eos, self.tokenizer.vocab_size)


class Guide:
    """One row's walk through a grammar.

    Attributes:
        eos: the token that ends an answer.
        vocabulary: tokens that the tokenizer has.
    """

    def __init__(self, matcher: LLMatcher, eos: int, vocabulary: int) -> None:
        self._matcher = matcher
        self._first: list[int] | None = None
        self.eos = eos
        self.vocabulary = vocabulary

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    def take(self, token: int) -> None:
        """Go on by a token that the grammar allows.

        Raises:
            GrammarStuck: the grammar does not take it.
        """
        if not self._matcher.consume_token(token):
            raise GrammarStuck(f"the grammar refuses token {token}: {self._why()}")

    def forced(self) -> list[int]:
        """The tokens that must come next, which the walk then has taken."""
        if self._first is not None:
            tokens, self._first = self._first, None
            return list(tokens)
        tokens = [int(token) for token in self._matcher.compute_ff_tokens()]
        for token in tokens:
            self.take(token)
        return tokens

    def coming(self) -> bytes:
        """What must come next beyond that, of which no tokens are certain yet."""
        return bytes(self._matcher.compute_ff_bytes())

    def _why(self) -> str:
        lines = (self._matcher.get_error() or "no reason given").strip().splitlines()
        return str(lines[0])


class Allowed:
    """Which tokens rows may draw next, found on other threads while the model runs.

    Args:
        guides: of the rows, which must not be touched until `mask` has returned.
    """

    def __init__(self, guides: Sequence[Guide | None]) -> None:
        self._guides = guides
        self._found = None
        if any(guide is not None for guide in guides):
            self._found = _finder().submit(_bitmasks, guides)

    def mask(self, vocabulary: int) -> np.ndarray | None:
        """Booleans, (rows, vocabulary), or None where all may draw all.

        Raises:
            GrammarStuck: a row may draw none.
        """
        if self._found is None:
            return None
        bits = np.unpackbits(self._found.result().view(np.uint8), axis=1, bitorder="little")
        mask = np.zeros((len(self._guides), vocabulary), dtype=bool)
        mask[:, : bits.shape[1]] = bits[:, :vocabulary]
        for row, guide in enumerate(self._guides):
            if guide is None:
                mask[row] = True
            elif not mask[row].any():
                raise GrammarStuck(f"the grammar allows no token: {guide._why()}")
        return mask


def _bitmasks(guides: Sequence[Guide | None]) -> np.ndarray:
    """llguidance's masks, (rows, words of 32 tokens); zero for a row without a guide."""
    held = [(guide._matcher, row) for row, guide in enumerate(guides) if guide is not None]
    words = -(-next(guide.vocabulary for guide in guides if guide is not None) // 32)
    masks = np.zeros((len(guides), words), dtype=np.int32)
    fill_next_token_bitmask_par(_executor(), held, masks)
    return masks


@cache
def _executor() -> LLExecutor:
    return LLExecutor()


@cache
def _finder() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="dspy-tk masks")


class Grammars:
    """Reads grammars for one tokenizer. May be used from any thread.

    Args:
        tokenizer: mlx-lm's wrapper.
        eos: tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, eos: frozenset[int]) -> None:
        self._wrapper = tokenizer
        self._eos = sorted(eos)
        self._lock = threading.Lock()
        self._tokenizer: Any = None
        self._kept: OrderedDict[str, Grammar] = OrderedDict()

    def lark(self, text: str) -> Grammar:
        """Read a grammar in llguidance's dialect of Lark.

        Raises:
            GrammarBroken: it is none.
        """
        return self._read("lark", text)

    def json_schema(self, schema: Mapping[str, Any]) -> Grammar:
        """Read a JSON schema; the answer will be one JSON value that fulfils it.

        Raises:
            GrammarBroken: it is no schema, or holds what cannot be enforced.
        """
        return self._read("json", json.dumps({"x-guidance": _WHITESPACE, **schema}))

    def _read(self, kind: str, text: str) -> Grammar:
        key = f"{kind}:{text}"
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                found = self._kept[key] = self._compile(kind, text)
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return found

    def _compile(self, kind: str, text: str) -> Grammar:
        if self._tokenizer is None:
            from llguidance.hf import from_tokenizer

            self._tokenizer = from_tokenizer(self._wrapper._tokenizer, eos_token=self._eos)
        convert = (
            LLMatcher.grammar_from_lark if kind == "lark" else LLMatcher.grammar_from_json_schema
        )
        try:
            matcher = LLMatcher(self._tokenizer, convert(text), log_level=0)
        except ValueError as error:
            raise GrammarBroken(f"{error}") from None
        if matcher.is_error():
            raise GrammarBroken(str(matcher.get_error()).strip().splitlines()[0])
        return Grammar(matcher, self._tokenizer, self._eos[0])
