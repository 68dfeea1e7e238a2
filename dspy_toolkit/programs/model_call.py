"""One call of a language model: counted, told as an event, made once where there is a journal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import dspy
from dspy.utils.exceptions import LMError

from dspy_toolkit.contract import Request
from dspy_toolkit.errors import StorageError
from dspy_toolkit.events import CallFinished, emit
from dspy_toolkit.programs.calls import STOPPED, Stopped, current_tally
from dspy_toolkit.programs.journal import (
    CallRecord,
    Claim,
    answer_data,
    call_content,
    call_key,
    error_data,
)
from dspy_toolkit.programs.limits import Budget, Cost


class ModelCall:
    """A call that someone asks for.

    Attributes:
        answer: what the model said; where `known` is false, whoever asks makes the call and sets
            it inside the block.
        known: whether the answer is there already.
    """

    def __init__(self, lm: dspy.LM, prompt: Any, messages: Any, kwargs: Mapping[str, Any]) -> None:
        self.answer: Any = None
        self.known = False
        self._model = str(lm.model)
        self._tally = current_tally()
        self._journal = self._tally.journal
        self._record: CallRecord | None = None
        source = getattr(lm, "source", None)
        self._reference = None if source is None else str(source.reference)
        ledger = self._tally.ledger
        self._budget = Budget() if ledger is None else ledger.budget
        self._key, self._worst = "", Cost(calls=1)
        if self._journal is not None:
            content = call_content(lm, prompt, messages, kwargs)
            self._key = call_key(content)
            # No token is less than a byte long.
            worst = self._recorded(len(content), _most(lm, prompt, kwargs))
            self._worst = worst.cost(self._budget)

    def claim(self) -> Claim:
        """Look it up; without a journal, every call is a new one."""
        self._tally.check()
        return Claim() if self._journal is None else self._journal.claim(self._key)

    @contextmanager
    def running(self, claim: Claim) -> Iterator[None]:
        """Take the answer from the record, or keep what comes of the call made in the block."""
        if claim.record is None:
            with self._held(), self._counted():
                yield
            return
        self._repeat(claim.record, claim.first)
        yield

    def _repeat(self, record: CallRecord, first: bool) -> None:
        self.known = True
        self._tally.note(record.cost(self._budget), made=record.made and first)
        error = None if record.error is None else str(record.error["kind"])
        self._tell(replace(record, made=False, seconds=0.0), error)
        self.answer = record.result()

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._settle()

    def _settle(self) -> None:
        if self._journal is None:
            return
        try:
            self._journal.settle(self._key, self._record)
        except StorageError as error:
            # As an ordinary error, DSPy would take it for one more answer that failed.
            self._tally.stop(error)
            raise Stopped(error) from error

    @contextmanager
    def _counted(self) -> Iterator[None]:
        tally = self._tally
        tally.begin(self._worst)
        meter = _Meter(dspy.settings.usage_tracker)
        started = time.perf_counter()
        error: str | None = None
        failure: LMError | None = None
        try:
            with dspy.context(usage_tracker=meter):
                yield
        except BaseException as problem:
            # What broke because everything was stopped is no failure of its own.
            error = STOPPED if tally.stopped else type(problem).__name__
            tally.check()
            failure = problem if isinstance(problem, LMError) else None
            raise
        finally:
            record = replace(
                self._recorded(meter.input_tokens, meter.output_tokens),
                made=error is not None or meter.answered,
                answer=answer_data(self.answer),
                error=None if failure is None else error_data(failure),
                seconds=round(time.perf_counter() - started, 6),
            )
            if error is None or failure is not None:
                self._record = record
            told = None if failure is None else _line(failure)
            tally.end(self._worst, record.cost(self._budget), made=record.made, error=told)
            self._tell(record, error)

    def _recorded(self, input_tokens: int, output_tokens: int) -> CallRecord:
        return CallRecord(
            key=self._key,
            model=self._model,
            reference=self._reference,
            made=True,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )

    def _tell(self, record: CallRecord, error: str | None) -> None:
        emit(
            CallFinished(
                model=self._model,
                seconds=record.seconds,
                input_tokens=record.input_tokens,
                output_tokens=record.output_tokens,
                cached=not record.made,
                error=error,
                run=self._tally.run,
            )
        )


@contextmanager
def model_call(
    lm: dspy.LM, prompt: Any, messages: Any, kwargs: Mapping[str, Any]
) -> Iterator[ModelCall]:
    """Ask for a call; the block makes it if its answer is not known yet.

    Args:
        lm: who is called; with the rest, what makes the call what it is.

    Raises:
        LMError: the call failed before. Stopped: everything was stopped.
    """
    call = ModelCall(lm, prompt, messages, kwargs)
    while (claim := call.claim()).flight is not None:
        claim.flight.result()
    with call.running(claim):
        yield call


@asynccontextmanager
async def async_model_call(
    lm: dspy.LM, prompt: Any, messages: Any, kwargs: Mapping[str, Any]
) -> AsyncIterator[ModelCall]:
    """`model_call` for coroutines."""
    call = ModelCall(lm, prompt, messages, kwargs)
    while (claim := call.claim()).flight is not None:
        await asyncio.shield(asyncio.wrap_future(claim.flight))
    with call.running(claim):
        yield call


def _most(lm: dspy.LM, prompt: Any, kwargs: Mapping[str, Any]) -> int:
    if isinstance(prompt, Request):
        return prompt.config.max_tokens or 0
    return {**lm.kwargs, **kwargs}.get("max_tokens") or 0


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


class _Meter:
    """Stands in for DSPy's usage tracker during one call: it hears of real answers only."""

    def __init__(self, outer: Any) -> None:
        self._outer = outer
        self.answered = False
        self.input_tokens = 0
        self.output_tokens = 0

    def add_usage(self, model: str, usage: dict[str, Any]) -> None:
        self.answered = True
        self.input_tokens += usage.get("prompt_tokens") or 0
        self.output_tokens += usage.get("completion_tokens") or 0
        if self._outer is not None:
            self._outer.add_usage(model, usage)
