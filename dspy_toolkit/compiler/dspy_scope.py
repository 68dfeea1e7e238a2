"""Corrections of DSPy that hold while a run is going on, and are undone after it.

DSPy's optimizers print, draw progress bars, submit slow examples twice and stop after ten
failures. None of this can be set from outside in DSPy 3.4, so the few names concerned are
replaced for as long as any run in this process needs it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO, TypeVar

import dspy
import dspy.evaluate.evaluate
import dspy.teleprompt.bootstrap
from dspy.utils.parallelizer import ParallelExecutor

T = TypeVar("T")
UNLIMITED = 10**9
"""As `max_errors`: a failed example scores 0, and none of them ends the run."""

_lock = threading.Lock()
_logs: list[Callable[[str], None]] = []
_undo = ExitStack()


@contextmanager
def corrected(log: Callable[[str], None]) -> Iterator[None]:
    """Run DSPy's optimizers without surprises.

    Args:
        log: takes each line that DSPy, or user code under it, prints or logs. With several runs
            at once, the newest one's.
    """
    with _lock:
        _logs.append(log)
        if len(_logs) == 1:
            _enter()
    try:
        with dspy.context(max_errors=UNLIMITED, disable_history=True):
            yield
    finally:
        with _lock:
            _logs.remove(log)
            if not _logs:
                _undo.close()


def patient_executor(threads: int) -> ParallelExecutor:
    """DSPy's thread pool, which carries settings into threads, without its second submissions."""
    return _patient(num_threads=threads, max_errors=UNLIMITED)


def _enter() -> None:
    _replace(dspy.evaluate.evaluate, "ParallelExecutor", _patient)
    _replace(dspy.teleprompt.bootstrap, "tqdm", _NoBar)
    _replace(sys, "stdout", _Lines(sys.stdout))
    _replace(logging.getLogger("dspy"), "handlers", [_Handler()])


def _replace(owner: Any, name: str, value: Any) -> None:
    _undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _patient(**settings: Any) -> ParallelExecutor:
    # A timeout of 0 turns the second submission of slow examples off.
    return ParallelExecutor(**{**settings, "timeout": 0, "disable_progress_bar": True})


class _NoBar:
    """Stands in for the module `tqdm`."""

    @staticmethod
    def tqdm(items: T, **_settings: Any) -> T:
        return items


class _Lines:
    """A text stream that hands whole lines to the log and is otherwise the real one."""

    def __init__(self, real: TextIO) -> None:
        self._real = real
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            _tell(line)
        return len(text)

    def flush(self) -> None:
        self._real.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _tell(self.format(record))


def _tell(line: str) -> None:
    if line.strip() and _logs:
        _logs[-1](line)
