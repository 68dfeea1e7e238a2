"""The programs that are served, by name; each may be replaced while it is being called."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from dspy_toolkit.contract import Engine
from dspy_toolkit.errors import NotFound, nearest
from dspy_toolkit.programs.served import ProgramAnswer, Streamed


class ServedProgram(Protocol):
    """What can stand on a shelf: one loaded version, or several behind one name."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def primary(self) -> str: ...

    @property
    def engines(self) -> Mapping[str, Engine]: ...

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def input_schema(self) -> dict[str, Any]: ...

    @property
    def output_schema(self) -> dict[str, Any]: ...

    async def call(self, values: Mapping[str, Any], weigh: bool = False) -> ProgramAnswer: ...

    def stream(self, values: Mapping[str, Any]) -> AsyncGenerator[Streamed, None]: ...

    def close(self) -> None: ...


class _Place:
    """A program and how many calls it is in. It is closed when it was taken down and all ended."""

    def __init__(self, program: ServedProgram) -> None:
        self.program = program
        self.calls = 0
        self.down = False


class Shelf:
    """Programs by name. Whoever uses one keeps it whole, whatever replaces it meanwhile.

    Args:
        closing: runs the closing of a program that was taken down; in place when left out.
    """

    def __init__(self, closing: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._places: dict[str, _Place] = {}
        self._lock = threading.Lock()
        self._closing = closing or (lambda close: close())

    @property
    def names(self) -> tuple[str, ...]:
        """The names there are, sorted."""
        return tuple(sorted(self._places))

    @property
    def programs(self) -> tuple[ServedProgram, ...]:
        """What stands there now, by name."""
        return tuple(place.program for _, place in sorted(self._places.items()))

    def version(self, name: str) -> str | None:
        """The version that is called now, if any."""
        place = self._places.get(name)
        return None if place is None else place.program.version

    def put(self, program: ServedProgram) -> None:
        """Let calls that begin from now on use this program. Those that run end on the old one."""
        with self._lock:
            old = self._places.get(program.name)
            self._places[program.name] = _Place(program)
        self._take_down(old)

    def remove(self, name: str) -> None:
        """Take a program down; calls that run end on it."""
        with self._lock:
            old = self._places.pop(name, None)
        self._take_down(old)

    @contextmanager
    def using(self, name: str) -> Iterator[ServedProgram]:
        """The program of a name, kept open for the block.

        Raises:
            NotFound: none has this name.
        """
        with self._lock:
            place = self._places.get(name)
            if place is None:
                known = ", ".join(self.names) or "none"
                raise NotFound(
                    f"no program is called {name[:100]!r}; {nearest(name, self.names)} "
                    f"(served: {known})"
                )
            place.calls += 1
        try:
            yield place.program
        finally:
            with self._lock:
                place.calls -= 1
                over = place.down and not place.calls
            if over:
                self._closing(place.program.close)

    def close(self) -> None:
        """Take every program down."""
        for name in self.names:
            self.remove(name)

    def _take_down(self, place: _Place | None) -> None:
        if place is None:
            return
        with self._lock:
            place.down = True
            idle = not place.calls
        if idle:
            self._closing(place.program.close)
