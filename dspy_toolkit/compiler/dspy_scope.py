"""Corrections of DSPy that hold while a run is going on, and are undone after it.

DSPy's optimizers print, draw progress bars, submit slow examples twice and stop after ten
failures. None of this can be set from outside in DSPy 3.4, so the few names concerned are
replaced for as long as any run in this process needs it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TextIO, TypeVar

import dspy
import dspy.evaluate.evaluate
import dspy.predict.parallel
import dspy.teleprompt.bootstrap
import dspy.teleprompt.reanchor.calibrate
import dspy.teleprompt.simba
import gepa.core.engine
from dspy.teleprompt.simba_utils import wrap_program
from dspy.utils.parallelizer import ParallelExecutor

T = TypeVar("T")
UNLIMITED = 10**9
"""As `max_errors`: a failed example scores 0, and none of them ends the run."""

Heard = Callable[[Sequence[Any], Sequence[Any], Mapping[int, str]], None]
"""Hears a list of items, what came of each, and why some failed, by their numbers."""

_KEY = "dspy_toolkit_output"
_heard: ContextVar[Heard | None] = ContextVar("dspy_toolkit_heard", default=None)
_failures: ContextVar[Mapping[int, str] | None] = ContextVar("dspy_toolkit_failures", default=None)
_lock = threading.Lock()
_undo = ExitStack()
_entered = 0


@contextmanager
def corrected(log: Callable[[str], None]) -> Iterator[None]:
    """Run DSPy's optimizers without surprises.

    Args:
        log: takes each line that DSPy, or user code under it, prints or logs inside, in the
            threads that DSPy starts there too. What other threads print goes where it always went.
    """
    output = _Output(log)
    with _replaced(), dspy.context(max_errors=UNLIMITED, disable_history=True, **{_KEY: output}):
        try:
            yield
        finally:
            output.end()


def patient_executor(threads: int) -> ParallelExecutor:
    """DSPy's thread pool, which carries settings into threads, without its second submissions."""
    return _patient(num_threads=threads, max_errors=UNLIMITED)


@contextmanager
def _replaced() -> Iterator[None]:
    global _entered
    with _lock:
        if not _entered:
            _enter()
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if not _entered:
                _undo.close()


def _enter() -> None:
    logger = logging.getLogger("dspy")
    bar = vars(gepa.core.engine)["tqdm"]
    with ExitStack() as undo:
        for owner, name, value in (
            (dspy.evaluate.evaluate, "ParallelExecutor", _patient),
            (dspy.predict.parallel, "ParallelExecutor", _patient),
            (dspy.teleprompt.reanchor.calibrate, "scores", _tolerant_scores),
            (dspy.teleprompt.simba, "wrap_program", Wrapped),
            (dspy.teleprompt.bootstrap, "tqdm", _NoBar),
            (gepa.core.engine, "tqdm", partial(bar, disable=True)),
            (sys, "stdout", _Routed(sys.stdout)),
            (logger, "handlers", [_Handler(logger.handlers)]),
        ):
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        _undo.push(undo.pop_all())


def last_failures() -> Mapping[int, str]:
    """Why items of the last list that this thread had worked on failed, by their index."""
    return _failures.get() or {}


@contextmanager
def hearing(heard: Heard) -> Iterator[None]:
    """Tell of each list that this thread has had worked on, when it is done."""
    token = _heard.set(heard)
    try:
        yield
    finally:
        _heard.reset(token)


class _Patient(ParallelExecutor):  # type: ignore[misc]  # DSPy ships no types
    def execute(self, function: Any, data: Any) -> Any:
        heard = _heard.get()
        # What a program itself has worked on at once is not meant.
        token = _heard.set(None)
        try:
            results = super().execute(function, data)
        finally:
            _heard.reset(token)
        failed = self.exceptions_map.items()
        failures = {index: failure_line(error) for index, error in failed}
        _failures.set(failures)
        if heard is not None:
            heard(data, results, failures)
        return results


def failure_line(error: Exception) -> str:
    """Why something failed, in one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def _patient(**settings: Any) -> ParallelExecutor:
    # A timeout of 0 turns the second submission of slow examples off.
    return _Patient(**{**settings, "timeout": 0, "disable_progress_bar": True})


def _tolerant_scores(
    program: Any, examples: Any, metric: Any, num_threads: int | None = None, progress: bool = False
) -> list[float]:
    """As ReAnchor's own, but an example on which the program fails scores 0."""

    def one(example: Any) -> float:
        with dspy.context(trace=[]):
            prediction = program(**example.inputs())
        return float(metric(example, prediction))

    found = patient_executor(num_threads or dspy.settings.num_threads).execute(one, examples)
    return [0.0 if score is None else score for score in found]


class Wrapped:
    """A program as SIMBA wraps it, which also says what it wraps and why it failed."""

    def __init__(self, program: Any, metric: Any) -> None:
        self.program = program
        self._metric = metric

    def __call__(self, example: Any) -> dict[str, Any]:
        """The answer and its score, as SIMBA takes them, and under `failure` why there is none."""
        why: list[str] = []

        def asked(**inputs: Any) -> Any:
            try:
                return self.program(**inputs)
            except Exception as error:
                why.append(failure_line(error))
                raise

        return {**wrap_program(asked, self._metric)(example), "failure": why[0] if why else None}


class _NoBar:
    """Stands in for the module `tqdm`."""

    @staticmethod
    def tqdm(items: T, **_settings: Any) -> T:
        return items


class _Output:
    """Hands whole lines to a log, whichever thread they come from."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._begun = ""

    def write(self, text: str) -> None:
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self.tell(line)

    def tell(self, line: str) -> None:
        if line.strip():
            self._log(line)

    def end(self) -> None:
        with self._lock:
            rest, self._begun = self._begun, ""
        self.tell(rest)


def _current() -> _Output | None:
    found = dspy.settings.get(_KEY)
    return found if isinstance(found, _Output) else None


class _Routed:
    """Standard output: what a run writes goes to its log, the rest where it always went."""

    def __init__(self, real: TextIO) -> None:
        self._real = real

    def write(self, text: str) -> int:
        output = _current()
        if output is None:
            return self._real.write(text)
        output.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Handler(logging.Handler):
    def __init__(self, others: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._others = others

    def emit(self, record: logging.LogRecord) -> None:
        output = _current()
        if output is not None:
            output.tell(self.format(record))
            return
        for other in self._others:
            if record.levelno >= other.level:
                other.handle(record)
