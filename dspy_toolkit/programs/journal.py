"""The answers of one piece of work: each model call is made once, and kept.

Two calls of the same model with the same content, settings, seed and rollout are the same call.
Whoever asks second gets the first one's answer, while that is still coming as well, so the order
in which threads run decides nothing. Failures are kept like answers: a call that failed fails
again, until the journal is told to forget. What was kept in a file is there for the next process,
which therefore repeats the work without the calls.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.call_result import attributes
from dspy.clients.legacy_outputs import plain
from dspy.utils import exceptions
from pydantic import BaseModel

from dspy_toolkit.contract import (
    Request,
    Response,
    request_to_dict,
    response_from_dict,
    response_to_dict,
)
from dspy_toolkit.programs.limits import Budget, Cost
from dspy_toolkit.store.append_log import AppendLog, Recovered, read_log
from dspy_toolkit.store.files import sha256_bytes

FILE = "journal.log"
_CONNECTION = ("cache", "api_key", "api_base", "base_url", "request")
_TOLD = ("message", "model", "provider", "provider_code", "status", "request_id", "retry_after")


@dataclass(frozen=True)
class CallRecord:
    """One call and what came of it.

    Attributes:
        key: of the call, see `call_content`.
        model: model string.
        reference: the model as the user named it, where it was opened by name.
        made: whether the model was asked; otherwise DSPy's cache knew the answer.
        answer: what the call returned, as JSON; None where it failed.
        error: what it raised, as JSON.
        input_tokens, output_tokens: as the model counted them.
        seconds: it took.
        at_s: how long the work had been going on when it was over, all processes together.
    """

    key: str
    model: str
    made: bool
    reference: str | None = None
    answer: Any = None
    error: Mapping[str, Any] | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    at_s: float = 0.0

    def cost(self, budget: Budget) -> Cost:
        """What the call costs where a model answers it."""
        money = budget.money_of(self.names, self.input_tokens, self.output_tokens)
        return Cost(calls=1, tokens=self.input_tokens + self.output_tokens, money=money)

    @property
    def names(self) -> tuple[str, ...]:
        """What the model is called, as users name it first."""
        return tuple(name for name in (self.reference, self.model) if name is not None)

    def result(self) -> Any:
        """What the call returned, made anew. Raises what it raised."""
        if self.error is not None:
            raise _raised(self.error)
        if isinstance(self.answer, dict):
            return response_from_dict(self.answer)
        return attributes(self.answer)


@dataclass(frozen=True)
class Claim:
    """The right to make a call, or what is known of it.

    Attributes:
        record: what came of it, where it was made before.
        first: whether nobody asked for it before in this process.
        flight: resolves when the call that someone else makes now is over; then claim again.
    """

    record: CallRecord | None = None
    first: bool = True
    flight: Future[None] | None = None


class CallJournal:
    """Answers by key, for any thread or coroutine.

    Args:
        file: keeps them; None keeps them in memory alone.
        forget_failures: make the calls again that failed before this process.
        clock: seconds.

    Attributes:
        forgotten: number of failed calls that are made again.
    """

    def __init__(
        self,
        file: Path | None = None,
        *,
        forget_failures: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = AppendLog(file) if file is not None else None
        self._lock = threading.Lock()
        self._flights: dict[str, Future[None]] = {}
        self._asked: set[str] = set()
        self._records = {record.key: record for record in map(_read, self.recovered.records)}
        failed = [key for key, record in self._records.items() if record.error is not None]
        self.forgotten = len(failed) if forget_failures else 0
        for key in failed if forget_failures else ():
            del self._records[key]
        earlier_s = max((record.at_s for record in self._records.values()), default=0.0)
        self._clock = clock
        self._began_at = clock() - earlier_s

    @property
    def recovered(self) -> Recovered:
        """What the file held at the beginning."""
        return self._log.recovered if self._log is not None else Recovered()

    @property
    def records(self) -> tuple[CallRecord, ...]:
        """Every call so far, those of earlier processes first."""
        with self._lock:
            return tuple(self._records.values())

    @property
    def elapsed_s(self) -> float:
        """Time worked so far: that of this process, and of earlier ones up to their last call."""
        return self._clock() - self._began_at

    def claim(self, key: str) -> Claim:
        """Ask for a call. Without a record or a flight, the caller makes and `settle`s it."""
        with self._lock:
            first = key not in self._asked
            flight = self._flights.get(key)
            if flight is not None:
                return Claim(flight=flight)
            record = self._records.get(key)
            self._asked.add(key)
            if record is None:
                self._flights[key] = Future()
            return Claim(record, first)

    def settle(self, key: str, record: CallRecord | None) -> None:
        """End a call that was claimed; None gives it up, so that another may make it.

        Raises:
            StorageError: it cannot be kept.
        """
        try:
            if record is not None:
                record = replace(record, at_s=round(self.elapsed_s, 3))
                if self._log is not None:
                    self._log.append(_written(record))
        finally:
            with self._lock:
                if record is not None:
                    self._records[key] = record
                else:
                    self._asked.discard(key)
                flight = self._flights.pop(key)
            flight.set_result(None)

    def close(self) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()


def take_calls(source: Path, target: Path) -> None:
    """Begin a journal with the answers of another, as ones that cost nothing."""
    with closing(AppendLog(target)) as log:
        for record in map(_read, read_log(source).records):
            if record.error is None:
                log.append(_written(replace(record, made=False, at_s=0.0)))


def cost_of(kept: Recovered, budget: Budget) -> Cost:
    """What the calls of a log cost, those made twice counted twice, and the time worked on them."""
    calls = [_read(values) for values in kept.records]
    worked_s = max((call.at_s for call in calls), default=0.0)
    return sum((call.cost(budget) for call in calls if call.made), Cost(seconds=worked_s))


def call_content(lm: dspy.LM, prompt: Any, messages: Any, kwargs: Mapping[str, Any]) -> bytes:
    """All that makes a call what it is, as canonical JSON; its digest is the call's key."""
    settings = {key: kwargs[key] for key in kwargs if key not in _CONNECTION}
    if isinstance(prompt, Request):
        asked: Any = request_to_dict(prompt)
    else:
        asked = messages or [{"role": "user", "content": prompt}]
        settings = {
            **{key: lm.kwargs[key] for key in lm.kwargs if key not in _CONNECTION},
            **settings,
        }
    facts = {
        "model": lm.model,
        "type": lm.model_type,
        "asked": asked,
        "settings": {key: value for key, value in settings.items() if value is not None},
    }
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), default=_described).encode()


def call_key(content: bytes) -> str:
    """The key of a call with this content."""
    return sha256_bytes(content)[:32]


def answer_data(answer: Any) -> Any:
    """What a call returned, as JSON: a `Response`, or a list of texts and their like."""
    if isinstance(answer, Response):
        return response_to_dict(answer, include_provider_data=True)
    return plain(answer)


def error_data(error: exceptions.LMError) -> dict[str, Any]:
    """What a call raised, as JSON."""
    told = {name: getattr(error, name, None) for name in _TOLD}
    told |= {"features": getattr(error, "features", None)}
    kept = {name: value for name, value in told.items() if value is not None}
    return {"kind": type(error).__name__, **kept}


def _raised(told: Mapping[str, Any]) -> exceptions.LMError:
    fields = dict(told)
    kind = getattr(exceptions, fields.pop("kind"), exceptions.LMUnexpectedError)
    return kind(**fields)


def _described(value: Any) -> Any:
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return repr(value)


def _written(record: CallRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if value is not None}


def _read(values: Mapping[str, Any]) -> CallRecord:
    return CallRecord(**values)
