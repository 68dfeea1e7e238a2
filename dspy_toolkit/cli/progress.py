"""A live bar for work that reports itself through events."""

from __future__ import annotations

import threading
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

from dspy_toolkit.cli.output import talk_console
from dspy_toolkit.events import (
    CallFinished,
    Event,
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


@contextmanager
def live_progress() -> Iterator[None]:
    """Show phases on stderr while the block runs: examples done, score so far, calls, time."""
    bar = Progress(
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
    # The bar starts with the first phase: an empty one would leave a blank line behind.
    try:
        with subscribed(_Follower(bar)):
            yield
    finally:
        if bar.live.is_started:
            bar.stop()


class _Follower:
    """Turns events, which come from many threads, into updates of the bar."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._lock = threading.Lock()
        self._current: TaskID | None = None
        self._done = 0
        self._made = 0
        self._cached = 0

    def __call__(self, event: Event) -> None:
        match event:
            case ModelLoaded(model, device, seconds):
                text = f"loaded {model} on {device} in {seconds:.1f} s"
                self._bar.console.print(text, markup=False)
            case CallFinished(cached=cached):
                self._count(cached)
            case PhaseStarted(_, phase, total):
                self._start(phase, total)
            case PhaseAdvanced(_, phase, done, score):
                self._advance(phase, done, score)

    def _count(self, cached: bool) -> None:
        with self._lock:
            self._cached += cached
            self._made += not cached

    def _start(self, phase: str, total: int | None) -> None:
        with self._lock:
            self._end()
            self._bar.start()
            self._done = 0
            label = _LABELS.get(phase, phase)
            self._current = self._bar.add_task(label, total=total or None, score="", calls="")
            if not self._bar.console.is_terminal:
                # Without a terminal the bars show once, at the end.
                count = "" if total is None else f", {total} examples"
                self._bar.console.print(f"{label}{count} ...")

    def _advance(self, phase: str, done: int, score: float | None) -> None:
        with self._lock:
            # Threads finish in no particular order; the bar only grows.
            self._done = max(self._done, done)
            if self._current is None:
                return
            best = "best " if phase == "optimize" else ""
            self._bar.update(
                self._current,
                completed=self._done,
                score="" if score is None else f"{best}{100 * score:.1f} %",
                calls=f"{self._made} calls" + (f", {self._cached} cached" if self._cached else ""),
            )

    def _end(self) -> None:
        """Close the phase before: an optimizer may score fewer or more examples than foreseen."""
        if self._current is not None:
            self._bar.update(self._current, total=self._done, completed=self._done)
