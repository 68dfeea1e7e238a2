"""Equal calls made at the same time are one sequence that all of them hear.

Calls are equal when their answers must be: the same tokens to read, the same limits and grammar,
and no chance, or the same seed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Protocol

from dspy_toolkit.engine.sequence import Failed, Finished, Message, Sequence

Sink = Callable[[Message], None]


class Takes(Protocol):
    """Where sequences go: the engine thread."""

    def submit(self, sequence: Sequence) -> None: ...

    def cancel(self, sequence: Sequence) -> None: ...


class Flight:
    """One sequence and those who hear it."""

    def __init__(self, key: Hashable, sequence: Sequence) -> None:
        self.key = key
        self.sequence = sequence
        self.sinks: list[Sink] = []
        self.sent: list[Message] = []
        self.reported = False


class Flights:
    """The sequences in work, by what their answers depend on. May be used from any thread.

    Attributes:
        joined: calls that heard another one's sequence.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Hashable, Flight] = {}
        self.joined = 0

    def board(self, sequence: Sequence, worker: Takes) -> Flight:
        """Start a sequence, or hear one like it that has been started; its sink hears all of it.

        Raises:
            EngineStopped: the engine thread has ended.
        """
        key = _key(sequence)
        with self._lock:
            flight = self._open.get(key) if key is not None else None
            if flight is not None:
                self.joined += 1
                for message in flight.sent:
                    sequence.sink(message)
                flight.sinks.append(sequence.sink)
                first = flight.sequence
                first.gives_up_at = max(first.gives_up_at, sequence.gives_up_at)
                return flight
            flight = Flight(key, sequence)
            flight.sinks.append(sequence.sink)
            own, sequence.sink = sequence.sink, lambda message: self._hear(flight, message)
            if key is not None:
                self._open[key] = flight
            try:
                worker.submit(sequence)
            except BaseException:
                sequence.sink = own
                self._close(flight)
                raise
            return flight

    def leave(self, flight: Flight, sink: Sink, worker: Takes) -> None:
        """Hear no more; who leaves last ends the sequence."""
        with self._lock:
            if sink in flight.sinks:
                flight.sinks.remove(sink)
            if flight.sinks:
                return
            self._close(flight)
        worker.cancel(flight.sequence)

    def first(self, flight: Flight) -> bool:
        """Whether nobody has asked this yet: an answer that many get is reported once."""
        with self._lock:
            first, flight.reported = not flight.reported, True
            return first

    def _hear(self, flight: Flight, message: Message) -> None:
        with self._lock:
            if isinstance(message, Finished | Failed):
                self._close(flight)
            flight.sent.append(message)
            for sink in flight.sinks:
                sink(message)

    def _close(self, flight: Flight) -> None:
        if self._open.get(flight.key) is flight:
            del self._open[flight.key]


def _key(sequence: Sequence) -> Hashable | None:
    """What an answer depends on; None where chance has a part in it."""
    sampling = sequence.sampling
    if sampling.temperature and sampling.seed is None:
        return None
    return (
        tuple(sequence.prompt),
        sampling,
        sequence.max_tokens,
        sequence.eos,
        sequence.reader.rules,
        sequence.streaming,
        sequence.logprobs,
        sequence.grammar,
        sequence.choices,
    )
