"""Answers of programs that may be given again: for a while, up to a size, per version."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.served import ProgramAnswer
from dspy_toolkit.store.files import sha256_json

MIB = 2**20
# What an entry costs beside its text: key, record, its place in the order.
_ENTRY_BYTES = 700


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: ProgramAnswer
    until: float
    size: int


class PredictionCache:
    """Keeps the answers used last. Use it on one event loop only.

    Args:
        ttl_s: how long an answer may be given again.
        limit_bytes: of all entries, as JSON text and what keeping them costs.
        now: tells the time, in seconds.

    Raises:
        InvalidInput: a limit is not above 0.
    """

    def __init__(
        self,
        ttl_s: float = 300.0,
        limit_bytes: int = 64 * MIB,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if not ttl_s > 0 or limit_bytes <= 0:
            raise InvalidInput(
                f"a cache needs a time to live and a size above 0, got {ttl_s!r} and "
                f"{limit_bytes!r}; turn it off with --no-cache instead"
            )
        self._ttl_s = ttl_s
        self._limit = limit_bytes
        self._now = now
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @staticmethod
    def key(name: str, version: str, values: Mapping[str, Any]) -> str:
        """Names a question: another version of a program never gets the answer."""
        return sha256_json([name, version, values])

    def get(self, key: str) -> ProgramAnswer | None:
        """The answer, if one is kept and still good."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until <= self._now():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.answer

    def put(self, key: str, answer: ProgramAnswer) -> None:
        """Keep an answer; those used longest ago make room."""
        size = _ENTRY_BYTES + len(json.dumps(answer.outputs, default=str))
        if size > self._limit:
            return
        if key in self._kept:
            self._drop(key)
        self._kept[key] = _Kept(answer, self._now() + self._ttl_s, size)
        self.bytes += size
        while self.bytes > self._limit:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        self.bytes -= self._kept.pop(key).size
