"""A sequence that is being read or decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

from dspy_toolkit.engine.choice import Chooser
from dspy_toolkit.engine.lookup import Lookup
from dspy_toolkit.engine.prefix_tree import Match
from dspy_toolkit.engine.sequence import Drawn, Sequence
from dspy_toolkit.engine.stats import Counts
from dspy_toolkit.engine.stretches import Stretch

_NOTHING: Match[Stretch] = Match(0, ())


@dataclass(eq=False)
class Row:
    """A sequence with a slot of its own.

    Attributes:
        tokens: all that are known, prompt and answer.
        lookup: guesses what comes next.
        done: how many of the tokens the model has seen.
        reads: whether the prompt is not stored yet.
        seated: how many rows were given a slot before it, the last time.
        waits_for: a row that reads what this one begins with.
        found: what was stored of its beginning when it was let in.
        ready: answer tokens that need no run of the model.
    """

    sequence: Sequence
    chooser: Chooser
    tokens: list[int]
    lookup: Lookup
    slot: int = -1
    done: int = 0
    reads: bool = True
    seated: int = 0
    waits_for: Row | None = None
    found: Match[Stretch] = _NOTHING
    ready: list[Drawn] = field(default_factory=list)

    @property
    def matchable(self) -> int:
        """How many tokens may be taken from elsewhere; a fork needs those of the answer."""
        known = len(self.tokens) - 1
        return min(known, len(self.sequence.prompt)) if self.sequence.choices else known

    @property
    def decodes(self) -> bool:
        """Whether the model has seen all but the token that was said last."""
        return not self.reads and self.done + 1 == len(self.tokens)

    @property
    def must_wait(self) -> bool:
        """Whether nothing can be drawn now behind the last token."""
        weigher = self.chooser.weigher
        return (
            self.chooser.ended
            or self.tokens[-1] in self.sequence.eos
            or (weigher is not None and weigher.question is not None)
        )

    def say(self, tokens: list[Drawn], counts: Counts) -> list[tuple[Sequence, Drawn]]:
        """Add what was drawn and what is forced behind it, and hand it out."""
        self.tokens += [each.token for each in tokens]
        counts.decoded += 1
        counts.forced += len(tokens) - 1
        return [(self.sequence, each) for each in tokens]
