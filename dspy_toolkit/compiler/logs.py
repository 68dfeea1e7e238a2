"""The two logs of a run: `run.log` for people, `events.jsonl` for machines."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from dspy_toolkit.events import (
    CallFinished,
    CandidateScored,
    Event,
    JournalOpened,
    PhaseAdvanced,
    PhaseStarted,
    RunFinished,
    RunStarted,
    current_run,
)
from dspy_toolkit.programs.calls import STOPPED
from dspy_toolkit.store.files import storage_errors

PEOPLE = "run.log"
MACHINES = "events.jsonl"
FLUSH_EVERY_S = 1.0

# Calls that end so did not fail: the run was ending, and says why itself.
_BROKEN_OFF = (STOPPED, KeyboardInterrupt.__name__)
_encoded = json.JSONEncoder(ensure_ascii=False).encode


class RunLogs:
    """Hears events and writes both logs, the one for people line by line.

    Machines get what is a second old, and all of it at the end: every line written by itself
    would let the thread that made a call wait for the interpreter once more. A line that cannot
    be written is lost silently, since events must not fail; `check` raises.
    """

    def __init__(self, folder: Path, run: str, clock: Callable[[], float] = time.time) -> None:
        self._run = run
        self._clock = clock
        self._folder = folder
        self._lock = threading.Lock()
        self._failure: OSError | None = None
        with storage_errors(folder):
            self._people = (folder / PEOPLE).open("a", encoding="utf-8", buffering=1)
            self._machines = (folder / MACHINES).open("a", encoding="utf-8")
        self._flushed_at = clock()

    def __call__(self, event: Event) -> None:
        """Log an event of this run, or one that belongs to the process as a whole."""
        nobodys = current_run.get() or self._run
        if getattr(event, "run", nobodys) != self._run:
            return
        at = self._clock()
        # Events hold plain values, so that no deep copy is needed.
        values = {each.name: getattr(event, each.name) for each in fields(event)}
        line = _encoded({"at": round(at, 3), "event": type(event).__name__, **values})
        text = _told(event)
        with self._lock:
            self._write(self._machines, line)
            self._flush(at)
            if text is not None:
                self._write(self._people, f"{_stamp(at)} {text}")

    def say(self, text: str) -> None:
        """Write a line for people."""
        with self._lock:
            self._write(self._people, f"{_stamp(self._clock())} {text}")

    def close(self) -> None:
        """Close both files; a line that cannot be written now is lost too."""
        with self._lock:
            for file in (self._people, self._machines):
                try:
                    file.close()
                except OSError as error:
                    self._failure = self._failure or error

    def check(self) -> None:
        """Raise `StorageError` if a line was lost."""
        with storage_errors(self._folder):
            if self._failure is not None:
                raise self._failure

    def _write(self, file: TextIO, line: str) -> None:
        # Threads of an interrupted run may still be talking after it was closed.
        if file.closed:
            return
        try:
            file.write(f"{line}\n")
        except OSError as error:
            self._failure = self._failure or error

    def _flush(self, at: float) -> None:
        if self._machines.closed or at - self._flushed_at < FLUSH_EVERY_S:
            return
        self._flushed_at = at
        try:
            self._machines.flush()
        except OSError as error:
            self._failure = self._failure or error


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _told(event: Event) -> str | None:
    match event:
        case RunStarted(run, task, optimizer):
            return f"run {run}: compiling {task} with {optimizer}"
        case JournalOpened():
            return event.text
        case PhaseStarted(_, phase, total):
            return f"{phase}: started" + ("" if total is None else f", {total} examples")
        case PhaseAdvanced():
            return None
        case CandidateScored(_, candidate, score, _, made, cached):
            return f"candidate {candidate}: {100 * score:.1f} % after {made + cached} calls"
        case CallFinished(error=str(error)) if error not in _BROKEN_OFF:
            return f"model call failed: {error}"
        case RunFinished(_, seconds, None):
            return f"finished after {seconds:.1f} s"
        case RunFinished(_, seconds, error):
            return f"ended after {seconds:.1f} s without a result: {error}"
    return None
