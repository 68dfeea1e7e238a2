"""Tokenising prompts of which most was tokenised before.

A tokenizer cuts a text at its special tokens before it does anything else, so what stands between
two of them has the same tokens wherever it stands. Calls of one program differ in their last piece.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import Any

_KEPT = 2048


class PromptEncoder:
    """Turns rendered prompts into tokens, remembering their pieces. May be used from any thread.

    Args:
        tokenizer: mlx-lm's wrapper.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Fast tokenizers raise "Already borrowed" when two threads encode while one changes
        # their settings, which encoding itself does.
        self._lock = threading.Lock()
        self._pieces: OrderedDict[str, list[int]] = OrderedDict()
        marks = _marks(tokenizer)
        self._cut = re.compile(f"(?={'|'.join(map(re.escape, marks))})") if marks else None

    def encode(self, text: str, special: bool) -> list[int]:
        """The tokens of a text.

        Args:
            text: a prompt, or any other text.
            special: whether the tokenizer adds its own tokens around it.
        """
        with self._lock:
            if special or self._cut is None:
                return list(self._tokenizer.encode(text, add_special_tokens=special))
            tokens: list[int] = []
            for piece in self._cut.split(text):
                tokens += self._known(piece)
            return tokens

    def _known(self, piece: str) -> list[int]:
        found = self._pieces.get(piece)
        if found is None:
            found = list(self._tokenizer.encode(piece, add_special_tokens=False))
            self._pieces[piece] = found
            if len(self._pieces) > _KEPT:
                self._pieces.popitem(last=False)
        else:
            self._pieces.move_to_end(piece)
        return found


def _marks(tokenizer: Any) -> list[str]:
    """Special tokens that a text may be cut before: they take nothing of what is beside them."""
    inner = getattr(tokenizer, "_tokenizer", None)
    if not getattr(inner, "is_fast", False):
        return []
    added = getattr(inner, "added_tokens_decoder", {}).values()
    marks = [
        token.content
        for token in added
        if token.special
        and token.content
        and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
    ]
    return sorted(marks, key=len, reverse=True)
