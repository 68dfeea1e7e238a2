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
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
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
from dspy_toolkit.store.append_log import AppendLog, Recovered
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
        made: whether the model was asked; otherwise DSPy's cache knew the answer.
        answer: what the call returned, as JSON; None where it failed.
        error: what it raised, as JSON.
        input_tokens, output_tokens: as the model counted them.
        seconds: it took.
    """

    key: str
    model: str
    made: bool
    answer: Any = None
    error: Mapping[str, Any] | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

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
    """

    def __init__(self, file: Path | None = None, *, forget_failures: bool = False) -> None:
        self._log = AppendLog(file) if file is not None else None
        self._lock = threading.Lock()
        self._flights: dict[str, Future[None]] = {}
        self._asked: set[str] = set()
        self._records = {
            record.key: record
            for record in map(_read, self.recovered.records)
            if not (forget_failures and record.error is not None)
        }

    @property
    def recovered(self) -> Recovered:
        """What the file held at the beginning."""
        return self._log.recovered if self._log is not None else Recovered()

    @property
    def records(self) -> tuple[CallRecord, ...]:
        """Every call so far, those of earlier processes first."""
        with self._lock:
            return tuple(self._records.values())

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
            if record is not None and self._log is not None:
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
    return {key: value for key, value in asdict(record).items() if value is not None}


def _read(values: Mapping[str, Any]) -> CallRecord:
    return CallRecord(**values)
