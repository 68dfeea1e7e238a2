"""What the routes of a server share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request as HttpRequest

from dspy_toolkit.contract import LM15Error
from dspy_toolkit.errors import ToolkitError
from dspy_toolkit.events import RequestFinished, emit
from dspy_toolkit.server.catalog import Catalog
from dspy_toolkit.server.errors import ApiError, from_engine, from_toolkit
from dspy_toolkit.server.gateway import KEY
from dspy_toolkit.server.keys import PROGRAMS, KeyRecord
from dspy_toolkit.server.prediction_cache import PredictionCache
from dspy_toolkit.server.turns import Turns

Health = Callable[[str], tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class Service:
    """A server's parts.

    Attributes:
        catalog: what is served.
        cache: answers of programs that may be given again; None keeps none.
        turns: of calls that a program's model has to answer.
        health: what a check of a level ("live", "ready", "deep") finds: status and body.
        metrics: everything measured, in Prometheus's text format.
    """

    catalog: Catalog
    health: Health
    metrics: Callable[[], bytes]
    cache: PredictionCache | None = field(default_factory=PredictionCache)
    turns: Turns = field(default_factory=Turns)


class Watch:
    """Times one request for the metrics; it is told once."""

    def __init__(self, name: str, version: str) -> None:
        self._name = name
        self._version = version
        self._began = time.perf_counter()
        self._first_s: float | None = None
        self._told = False

    def first(self) -> None:
        """The first piece of the answer is there."""
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._began

    def done(self, error: str | None = None) -> None:
        """The answer is complete, or failed."""
        if self._told:
            return
        self._told = True
        seconds = time.perf_counter() - self._began
        emit(RequestFinished(self._name, self._version, seconds, error, self._first_s))

    @contextmanager
    def during(self) -> Iterator[None]:
        """Tell what becomes of the block, and turn its errors into those for callers.

        Raises:
            ApiError: for whatever the layers below raise on purpose.
        """
        try:
            yield
        except ApiError as error:
            self.done(error.code or str(error.status))
            raise
        except LM15Error as error:
            told = from_engine(error)
            self.done(told.code or type(error).__name__)
            raise told from error
        except ToolkitError as error:
            told = from_toolkit(error)
            self.done(told.code or type(error).__name__)
            raise told from error
        except BaseException as error:
            left = isinstance(error, asyncio.CancelledError | GeneratorExit)
            self.done("cancelled" if left else type(error).__name__)
            raise
        self.done()


def allowed(request: HttpRequest, name: str) -> str:
    """The name of a model or program, if the caller's key covers it.

    Raises:
        ApiError: it covers others only.
    """
    record = getattr(request.state, KEY, None)
    if isinstance(record, KeyRecord) and not record.allows(PROGRAMS, name):
        raise ApiError(403, f"this key is not made for {name[:100]!r}", param="model", code="scope")
    return name


def service_of(request: HttpRequest) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service
