"""What a running server tells the person at its terminal."""

from __future__ import annotations

from dspy_toolkit.cli.output import say
from dspy_toolkit.events import (
    BreakerChanged,
    BreakerStateLost,
    ChildEnded,
    ChildStarted,
    Event,
    RequestBroken,
    VersionRefused,
    VersionSwitched,
)

_WHY = {
    "stopped": "the system had stopped it",
    "no_heartbeat": "it gave no sign of life",
    "first_token": "it made no progress with its calls",
    "between_tokens": "it made no more progress with its calls",
    "memory": "out of memory",
    "not_loaded": "its model could not be loaded",
}


class Remarks:
    """Tells of versions, broken requests, processes that were lost, and circuits that turn."""

    def __init__(self) -> None:
        self._lost: set[str] = set()

    def __call__(self, event: Event) -> None:
        match event:
            case VersionSwitched(program, before, after):
                say(f"{program}: version {after} answers" + (f", after {before}" if before else ""))
            case VersionRefused(program, version, reason):
                say(f"{program}: version {version} is refused: {reason}")
            case RequestBroken(request, error):
                say(f"request {request} broke: {error}")
            case ChildEnded(engine, reason, replayed, failed, how):
                self._lost.add(engine)
                why = _WHY.get(reason) or how or "it could not be started"
                say(
                    f"{engine}: its process was lost ({why}); "
                    f"calls made again: {replayed}, failed: {failed}"
                )
            case ChildStarted(engine, process, seconds) if engine in self._lost:
                self._lost.discard(engine)
                say(f"{engine}: process {process} took over after {seconds:.1f} s")
            case BreakerStateLost(path, reason):
                say(f"a circuit goes on without its state in {path}: {reason}")
            case BreakerChanged(engine, _, after) if after != "half-open":
                say(f"{engine}: its circuit is {after}")
