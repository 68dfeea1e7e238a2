"""Progress of work that reports itself through events: bars on a terminal, lines in a log."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dspy_toolkit.cli.output import say, talk_console
from dspy_toolkit.events import (
    CallFinished,
    CandidateScored,
    Event,
    JournalOpened,
    ModelLoaded,
    PhaseAdvanced,
    PhaseStarted,
    subscribed,
)

_LABELS = {
    "baseline": "score before",
    "optimize": "optimize",
    "test": "score after",
    "evaluate": "score",
}
_LINES_A_PHASE = 10


@contextmanager
def live_progress() -> Iterator[None]:
    """Show phases on stderr while the block runs: examples done, score so far, calls, time."""
    follower = _Bars() if talk_console().is_terminal else _Lines()
    try:
        with subscribed(follower):
            yield
    finally:
        follower.stop()


class _Follower(ABC):
    """Turns events, which come from many threads, into what a person sees."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase = self._label = ""
        self._total: int | None = None
        self._done = 0
        self._made = 0
        self._cached = 0
        self._tokens = 0
        self._began_at = time.monotonic()
        self._phase_at = self._began_at
        self._trial = ""
        self._best: CandidateScored | None = None

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case ModelLoaded(model, device, seconds, note):
                    self.remark(f"loaded {model} on {device} in {seconds:.1f} s")
                    if note:
                        self.remark(f"{model} shares less between calls: {note}")
                case JournalOpened():
                    self.remark(event.text)
                case CallFinished(cached=cached):
                    self._cached += cached
                    self._made += not cached
                    self._tokens += 0 if cached else event.input_tokens + event.output_tokens
                case CandidateScored():
                    self._trial = self._standing(event)
                case PhaseStarted(_, phase, total):
                    self.end_phase()
                    self._phase = phase
                    self._label, self._total, self._done = _LABELS.get(phase, phase), total, 0
                    self._phase_at, self._trial = time.monotonic(), ""
                    self.start_phase()
                # An example that a spent budget overtook may be told of when the next phase is on.
                case PhaseAdvanced(_, phase, done, score) if phase == self._phase:
                    # Threads finish in no particular order; what is shown only grows.
                    self._done = max(self._done, done)
                    so_far = "" if score is None else f"{100 * score:.1f} %"
                    self.advance(self._trial if phase == "optimize" else so_far)

    @property
    def calls(self) -> str:
        """Calls so far, as people read them."""
        text = f"{self._made} calls" + (f", {self._cached} cached" if self._cached else "")
        seconds = time.monotonic() - self._began_at
        return text + (f", {self._tokens / seconds:.0f} tokens/s" if self._tokens else "")

    @property
    def seconds_left(self) -> float | None:
        """Until the phase ends, at the pace so far; None where its length is not known."""
        if not self._total or not self._done or self._done > self._total:
            return None
        return (time.monotonic() - self._phase_at) / self._done * (self._total - self._done)

    def _standing(self, scored: CandidateScored) -> str:
        # Loads numpy, which whatever scores candidates has loaded already.
        from dspy_toolkit.compiler.statistics import mean_interval

        if self._best is None or scored.score > self._best.score:
            self._best = scored
        low, high = mean_interval(self._best.scores)
        best = f"best {100 * self._best.score:.1f} % ({100 * low:.0f} to {100 * high:.0f})"
        return f"trial {scored.candidate}, {best}"

    @abstractmethod
    def remark(self, text: str) -> None: ...

    @abstractmethod
    def start_phase(self) -> None: ...

    @abstractmethod
    def advance(self, score: str) -> None: ...

    @abstractmethod
    def end_phase(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...


class _Bars(_Follower):
    """One bar a phase."""

    def __init__(self) -> None:
        super().__init__()
        self._current: TaskID | None = None
        self._bar = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[score]}"),
            TextColumn("{task.fields[calls]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=talk_console(),
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def remark(self, text: str) -> None:
        self._bar.console.print(text, markup=False)

    def start_phase(self) -> None:
        # Not earlier: a bar without a phase would leave a blank line behind.
        self._bar.start()
        self._current = self._bar.add_task(
            self._label, total=self._total or None, score="", calls=""
        )

    def advance(self, score: str) -> None:
        if self._current is not None:
            self._bar.update(self._current, completed=self._done, score=score, calls=self.calls)

    def end_phase(self) -> None:
        # An optimizer may score fewer or more examples than foreseen.
        if self._current is not None:
            self._bar.update(self._current, total=self._done, completed=self._done)

    def stop(self) -> None:
        self.end_phase()
        if self._bar.live.is_started:
            self._bar.stop()


class _Lines(_Follower):
    """A line when a phase starts, and one for each tenth of it."""

    def __init__(self) -> None:
        super().__init__()
        self._told = 0

    def remark(self, text: str) -> None:
        say(text)

    def start_phase(self) -> None:
        self._told = 0
        say(self._label + ("" if self._total is None else f", {self._total} examples") + " ...")

    def end_phase(self) -> None:
        """Nothing to close: every line stands by itself."""

    def stop(self) -> None:
        """Nothing to put back."""

    def advance(self, score: str) -> None:
        step = max(1, (self._total or 0) // _LINES_A_PHASE)
        if self._done < self._told + step:
            return
        self._told = self._done
        of = f" of {self._total}" if self._total else ""
        left = self.seconds_left
        ahead = "" if left is None else f"{left:.0f} s left"
        say(", ".join(filter(None, (f"  {self._done}{of}", score, self.calls, ahead))))
