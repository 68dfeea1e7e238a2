"""Weighing options: how likely a model finds each of a few texts at one place of its answer.

An option's probability is that of all its tokens and of the first of what must stand behind it, so
that an option which another one begins with is told from that one. Options are taken as the
tokenizer writes them, and their probabilities are divided by their sum. Neither grammar nor
temperature nor penalties play a part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Path = tuple[int, ...]


class Bytes(Protocol):
    """llguidance's tokenizer."""

    def tokenize_bytes(self, utf8bytes: bytes) -> list[int]: ...

    def decode_bytes(self, tokens: list[int]) -> bytes: ...


@dataclass(frozen=True)
class Choice:
    """A place in an answer where one of a few texts is written.

    Attributes:
        name: of the choice.
        after: the text right before it, whose last character the grammar leaves no choice about.
        options: the texts.
        end: the text right behind it.
    """

    name: str
    after: str
    options: tuple[str, ...]
    end: str


def read_choices(entries: Any) -> tuple[Choice, ...]:
    """Read choices as they stand in a request.

    Raises:
        ValueError: with what is wrong.
    """
    if not isinstance(entries, list):
        raise ValueError(f"choices must be a list, got {entries!r}")
    return tuple(_choice(entry) for entry in entries)


def _choice(entry: Any) -> Choice:
    if not isinstance(entry, Mapping) or entry.keys() != {"name", "after", "options", "end"}:
        raise ValueError(f"a choice needs name, after, options and end, got {entry!r}")
    options = entry["options"]
    texts = [entry["name"], entry["after"], entry["end"], *options]
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"name, after, options and end of a choice must be texts, got {entry!r}")
    if not options or len(set(options)) < len(options):
        raise ValueError(f"the options of {entry['name']!r} must be different texts: {options!r}")
    return Choice(entry["name"], entry["after"], tuple(options), entry["end"])


@dataclass(frozen=True)
class Question:
    """A choice that has been reached.

    Attributes:
        name: of the choice.
        base: how many tokens of the answer come before what the options differ in.
        paths: the tokens of each option from there on, no path the beginning of another one.
    """

    name: str
    base: int
    paths: Mapping[str, Path]

    @property
    def rows(self) -> list[Path]:
        """What the model must read to have seen all but the last token of every path."""
        inner = sorted({path[:-1] for path in self.paths.values()})
        # In this order whatever begins with a path comes right behind it.
        return [
            path
            for path, following in zip(inner, [*inner[1:], None], strict=True)
            if following is None or following[: len(path)] != path
        ]

    def steps(self) -> list[tuple[int, int, int]]:
        """Which scores make up the options' probabilities, option by option.

        Returns:
            (row, tokens of the row read before, token) for every token of every path.
        """
        rows = self.rows
        found = []
        for path in self.paths.values():
            row = next(n for n, each in enumerate(rows) if each[: len(path) - 1] == path[:-1])
            found += [(row, place, token) for place, token in enumerate(path)]
        return found

    def weights(self, logprobs: Sequence[float]) -> dict[str, float]:
        """The options' probabilities from the log probabilities of `steps`."""
        sums: dict[str, float] = {}
        begin = 0
        for option, path in self.paths.items():
            sums[option] = math.fsum(logprobs[begin : begin + len(path)])
            begin += len(path)
        top = max(sums.values())
        shares = {option: math.exp(each - top) for option, each in sums.items()}
        total = math.fsum(shares.values())
        return {option: share / total for option, share in shares.items()}


class Weigher:
    """Follows one answer and says when a choice has been reached.

    Args:
        choices: in the order they are reached in.
        tokenizer: of the model.
        weights: takes what is found, by the choices' names. Choices that are in it already, from
            a walk that broke off, are passed over.

    Attributes:
        question: the choice to weigh before the next token is drawn, or None.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        tokenizer: Bytes,
        weights: dict[str, dict[str, float]],
    ) -> None:
        self._left = [choice for choice in choices if choice.name not in weights]
        self._tokenizer = tokenizer
        self._weights = weights
        self._tokens: list[int] = []
        self._text = b""
        # Bytes of the answer up to the end of each token.
        self._ends: list[int] = []
        self._seen = 0
        self.question: Question | None = None

    def go_on(self, tokens: list[int], forced: int, coming: bytes) -> None:
        """Take the next tokens of the answer.

        Args:
            tokens: drawn and forced, in order.
            forced: how many at the end are forced.
            coming: what must follow them, of which no tokens are known yet.
        """
        self._tokens += tokens
        for token in tokens:
            self._text += self._tokenizer.decode_bytes([token])
            self._ends.append(len(self._text))
        fixed = self._end(len(self._ends) - forced)
        text = self._text + coming
        for choice in list(self._left):
            after = choice.after.encode()
            begin = text.find(after, max(self._seen, fixed - len(after) + 1))
            if begin < 0:
                break
            self._left.remove(choice)
            self._seen = begin + len(after)
            self._reach(choice, text, self._seen)

    def settle(self, logprobs: Sequence[float]) -> None:
        """Take the scores of the question's steps."""
        assert self.question is not None
        self._weights[self.question.name] = self.question.weights(logprobs)
        self.question = None

    def _reach(self, choice: Choice, text: bytes, begin: int) -> None:
        if len(choice.options) == 1:
            self._weights[choice.name] = {choice.options[0]: 1.0}
            return
        base = max(n for n in range(len(self._ends) + 1) if self._end(n) <= begin)
        paths = token_paths(self._tokenizer, text[self._end(base) : begin], choice)
        common = _common([*paths.values(), tuple(self._tokens[base:])])
        self.question = Question(
            choice.name,
            base + common,
            {option: path[common:] for option, path in paths.items()},
        )

    def _end(self, tokens: int) -> int:
        return self._ends[tokens - 1] if tokens else 0


def token_paths(tokenizer: Bytes, lead: bytes, choice: Choice) -> dict[str, Path]:
    """The tokens of each option of a choice, with as much of the end as tells them apart.

    Args:
        lead: what is to be written before the option.
    """
    whole = {
        option: tuple(tokenizer.tokenize_bytes(lead + option.encode() + choice.end.encode()))
        for option in choice.options
    }
    paths = {}
    for option, tokens in whole.items():
        least = len(lead) + len(option.encode())
        written, count = 0, 0
        while written <= least and count < len(tokens):
            written += len(tokenizer.decode_bytes([tokens[count]]))
            count += 1
        others = [other for name, other in whole.items() if name != option]
        while count < len(tokens) and any(o[:count] == tokens[:count] for o in others):
            count += 1
        paths[option] = tokens[:count]
    return paths


def _common(paths: Sequence[Path]) -> int:
    """How many tokens all paths begin with alike."""
    first, last = min(paths), max(paths)
    count = 0
    while count < min(len(first), len(last)) and first[count] == last[count]:
        count += 1
    return count
