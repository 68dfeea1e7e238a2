"""Reading a model's tokens as text, thinking and tool calls, cut at the first stop string."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from dspy_toolkit.engine.stops import MarkerFinder

Kind = Literal["text", "thinking", "tool"]


class Detokenizer(Protocol):
    """mlx-lm's streaming detokenizer: whole characters only, however tokens split them."""

    def add_token(self, token: int) -> None: ...

    def finalize(self) -> None: ...

    @property
    def last_segment(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Score:
    """A token's log probability in nats, and those of the likeliest ones in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of output of one kind.

    Attributes:
        kind: "text" is the answer, "thinking" what comes before it, "tool" the inside of one call,
            always whole.
        text: the characters, markers removed.
        scores: of the tokens that lie wholly in this text, where they were asked for.
        complete: False when a stop string cut a token, so that some text here has no score.
    """

    kind: Kind
    text: str
    scores: tuple[Score, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Markers:
    """The strings that end an answer or turn it into something else.

    Attributes:
        stops: end the answer; they count in the answer alone, not in thinking or calls.
        think: beginning and end of thinking, where the model has it.
        tool: beginning and end of a call, where tools were given. An empty end means that the
            call runs to the end of the output.
    """

    stops: tuple[str, ...] = ()
    think: tuple[str, str] | None = None
    tool: tuple[str, str] | None = None

    def of(self, kind: Kind) -> tuple[str, ...]:
        """What may end a run of this kind."""
        if kind == "thinking":
            return (self.think[1],) if self.think else ()
        if kind == "tool":
            return (self.tool[1],) if self.tool and self.tool[1] else ()
        begins = [pair[0] for pair in (self.think, self.tool) if pair]
        return (*self.stops, *begins)


class OutputReader:
    """Turns the tokens of one answer into pieces, holding back what may be part of a marker.

    Attributes:
        rules: what the pieces depend on besides the tokens.
        stopped: whether a stop string has ended the answer.
    """

    def __init__(self, detokenizer: Detokenizer, markers: Markers, begins: Kind = "text") -> None:
        self._detokenizer = detokenizer
        self.rules = (markers, begins)
        self._markers = markers
        self._kind: Kind = begins
        self._finder = MarkerFinder(markers.of(begins))
        self._scores: deque[tuple[int, int, Score]] = deque()
        self._read = 0
        self._sent = 0
        self._call = ""
        self.stopped = False

    def add(self, token: int, score: Score | None = None) -> list[Piece]:
        """Take the next token; after a stop string nothing more is handed out."""
        self._detokenizer.add_token(token)
        segment = self._detokenizer.last_segment
        if score is not None:
            self._scores.append((self._read, self._read + len(segment), score))
        return self._scan(segment)

    def finish(self) -> list[Piece]:
        """Hand out what is left when no more tokens come."""
        if self.stopped:
            return []
        self._detokenizer.finalize()
        pieces = self._scan(self._detokenizer.last_segment)
        if not self.stopped:
            pieces += self._emit(self._finder.flush(), self._read)
            pieces += self._whole_call()
        return pieces

    def _scan(self, segment: str) -> list[Piece]:
        self._read += len(segment)
        pieces: list[Piece] = []
        while not self.stopped:
            found = self._finder.feed(segment)
            marker_end = self._sent + len(found.text) + len(found.marker or "")
            pieces += self._emit(found.text, marker_end if found.marker else None)
            if found.marker is None:
                break
            pieces += self._whole_call()
            self._turn(found.marker)
            self._sent = marker_end
            segment = found.rest
        return pieces

    def _emit(self, text: str, drop_to: int | None) -> list[Piece]:
        """Make a piece of `text`, and forget scores of tokens that begin before `drop_to`."""
        self._sent += len(text)
        kept = []
        while self._scores and self._scores[0][1] <= self._sent:
            kept.append(self._scores.popleft()[2])
        complete = True
        while drop_to is not None and self._scores and self._scores[0][0] < drop_to:
            begin, _, _ = self._scores.popleft()
            complete = complete and begin >= self._sent
        if self._kind == "tool":
            self._call += text
            return []
        if self._kind == "thinking":
            kept, complete = [], True
        if not text and not kept and complete:
            return []
        return [Piece(self._kind, text, tuple(kept), complete)]

    def _whole_call(self) -> list[Piece]:
        call, self._call = self._call, ""
        return [Piece("tool", call)] if self._kind == "tool" else []

    def _turn(self, marker: str) -> None:
        if self._kind != "text":
            self._kind = "text"
        elif self._markers.think and marker == self._markers.think[0]:
            self._kind = "thinking"
        elif self._markers.tool and marker == self._markers.tool[0]:
            self._kind = "tool"
        else:
            self.stopped = True
        self._finder = MarkerFinder(self._markers.of(self._kind))


def text_of(pieces: Sequence[Piece], kind: Kind = "text") -> str:
    """All text of one kind, joined."""
    return "".join(piece.text for piece in pieces if piece.kind == kind)
