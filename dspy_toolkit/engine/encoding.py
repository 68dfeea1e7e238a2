"""Tokenising prompts that begin like earlier ones.

A tokenizer first finds its added tokens, from left to right and the longest at each place, and what
stands between two of them has the same tokens wherever it stands. So where a text begins like a
known one, the tokens of the known one hold up to the last added token that cannot have been found
otherwise, and the text is tokenised from there.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from dspy_toolkit.engine.prefix_tree import common_length

# Texts that are remembered, and how many new characters make a text worth it.
_KEPT = 32
_WORTH_KEEPING = 2048


@dataclass(frozen=True)
class _Known:
    """A text with its tokens, and where added tokens begin: (character, number of the token)."""

    text: str
    tokens: list[int]
    places: list[tuple[int, int]]


class PromptEncoder:
    """Turns rendered prompts into tokens. May be used from any thread.

    Args:
        tokenizer: mlx-lm's wrapper.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Fast tokenizers raise "Already borrowed" when two threads encode while one changes
        # their settings, which encoding itself does.
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._added = _added(tokenizer)
        self._longest = max((len(text) for text in self._added.values()), default=0)

    def encode(self, text: str, special: bool) -> list[int]:
        """The tokens of a text.

        Args:
            text: a prompt, or any other text.
            special: whether the tokenizer adds its own tokens around it.
        """
        with self._lock:
            if special or not self._added:
                return list(self._tokenizer.encode(text, add_special_tokens=special))
            known, begin, count = self._match(text)
            new = self._tokenizer._tokenizer.backend_tokenizer.encode(
                text[begin:], add_special_tokens=False
            )
            tokens = [*known.tokens[:count], *new.ids] if known is not None else list(new.ids)
            if len(text) - begin >= _WORTH_KEEPING:
                self._keep(text, tokens, known, begin, count, new.offsets)
            return tokens

    def _match(self, text: str) -> tuple[_Known | None, int, int]:
        """A known text, and up to which character and token of it `text` is the same."""
        best: tuple[_Known | None, int, int] = (None, 0, 0)
        for known in self._known.values():
            safe = common_length(known.text, text) - self._longest
            found = bisect_right(known.places, safe, key=itemgetter(0))
            if found and known.places[found - 1][0] > best[1]:
                best = (known, *known.places[found - 1])
        if best[0] is not None:
            self._known.move_to_end(best[0].text)
        return best

    def _keep(
        self,
        text: str,
        tokens: list[int],
        known: _Known | None,
        begin: int,
        count: int,
        offsets: list[tuple[int, int]],
    ) -> None:
        places = [] if known is None else [each for each in known.places if each[0] < begin]
        places += [
            (begin + offset, count + number)
            for number, (offset, _) in enumerate(offsets)
            if tokens[count + number] in self._added
        ]
        self._known[text] = _Known(text, tokens, places)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)


def _added(tokenizer: Any) -> dict[int, str]:
    """Added tokens by their numbers, or none where a text cannot be begun at one of them."""
    inner = getattr(tokenizer, "_tokenizer", None)
    if not getattr(inner, "is_fast", False):
        return {}
    added = getattr(inner, "added_tokens_decoder", {})
    if any(t.lstrip or t.rstrip or t.single_word or t.normalized for t in added.values()):
        return {}
    return {int(number): str(token.content) for number, token in added.items() if token.content}
