"""Calls that are the same and made at the same time: the first one flies, the others wait."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any


class Flight:
    """One call as its first caller makes it, seen by that caller or by one who waits for it."""

    def __init__(self, landing: Future[Exception | None], leads: bool) -> None:
        self._landing = landing
        self._leads = leads

    @classmethod
    def landed(cls) -> Flight:
        """A flight that nobody has to wait for."""
        return cls(Future(), leads=True)

    def wait(self) -> None:
        """Return at once for the first caller, else when it is through.

        Raises:
            What the first caller's call raised, if that was an `Exception`.
        """
        if not self._leads:
            _raised(self._landing.result())

    async def await_(self) -> None:
        """The same for coroutines."""
        if not self._leads:
            _raised(await asyncio.shield(asyncio.wrap_future(self._landing)))


class Flights:
    """Knows the calls in flight.

    Who has waited makes the call too, and finds its answer in the cache. A first caller who only
    leaves does not take the others along: they make the call themselves then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Future[Exception | None]] = {}

    @contextmanager
    def boarded(self, *call: Any) -> Iterator[Flight]:
        """Take part in the flight of a call.

        Args:
            call: all that tells it from others. What JSON does not know is equal to itself alone.
        """
        key = json.dumps(call, sort_keys=True, default=lambda value: f"at {id(value)}")
        with self._lock:
            found = self._open.get(key)
            landing = self._open.setdefault(key, Future())
        if found is not None:
            yield Flight(landing, leads=False)
            return
        failure: Exception | None = None
        try:
            yield Flight(landing, leads=True)
        except Exception as error:
            failure = error
            raise
        finally:
            with self._lock:
                del self._open[key]
            landing.set_result(failure)


def _raised(failure: Exception | None) -> None:
    if failure is not None:
        raise failure
