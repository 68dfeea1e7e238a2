"""Health of whatever is served at the moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from dspy_toolkit.events import EngineSampled, Event
from dspy_toolkit.monitoring import Health
from dspy_toolkit.server.catalog import Catalog


class CatalogHealth:
    """Watches the engines behind a catalog as they come and go. It is a subscriber.

    Args:
        catalog: what is served.
        within_s: how old the last token may be before the deep check asks for one.
        patience_s: how long it waits for that.
    """

    def __init__(self, catalog: Catalog, within_s: float = 60.0, patience_s: float = 10.0) -> None:
        self._catalog = catalog
        self._within_s = within_s
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._watched: tuple[int, ...] = ()
        self._health = Health({})

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        self._health(event)

    def check(self, level: str) -> tuple[int, dict[str, Any]]:
        """What a check finds: HTTP's status, and the body."""
        with self._lock:
            engines = self._catalog.engines
            watched = tuple(sorted(map(id, engines.values())))
            if watched != self._watched:
                self._watched = watched
                self._health = Health(engines, within_s=self._within_s, patience_s=self._patience_s)
            health = self._health
        report = health.check(level)
        return report.status, report.to_dict()

    def samples(self) -> Iterator[Event]:
        """How every engine stands now, for metrics."""
        told: set[str] = set()
        for engine in self._catalog.engines.values():
            samples = getattr(engine, "samples", None)
            for event in samples() if samples is not None else ():
                # Programs over one model have its engine in common.
                if isinstance(event, EngineSampled):
                    if event.model in told:
                        continue
                    told.add(event.model)
                yield event
