"""Health that tells the truth: alive, ready, and whether tokens really come.

A server that answers "ok" while its generator is dead is worse than one that is down. So the deep
check rests on a token that was generated, by real traffic lately or else by a probe that takes the
same way as every call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dspy_toolkit.contract import Config, Message, Request, Response
from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.events import AttemptFinished, Event, GenerationFinished

Level = Literal["live", "ready", "deep"]
LEVELS: tuple[Level, ...] = ("live", "ready", "deep")

GENERATED = "generated"
"""Key of an answer's `provider_data` that is False where no model was asked."""


def known_level(level: str) -> Level:
    """A level by its name.

    Raises:
        InvalidInput: there is none of this name.
    """
    for each in LEVELS:
        if each == level:
            return each
    raise InvalidInput(f"health level {level!r} is unknown; {nearest(level, LEVELS)}")


class Subject(Protocol):
    """What is checked: an engine. Where it has `alive`, that says whether calls are taken now."""

    def complete(self, request: Request) -> Response: ...


@dataclass(frozen=True)
class Finding:
    """What was found of one subject.

    Attributes:
        reason: why it is well, or is not, in one line.
        token_age_s: since a token of it was seen last; None if none was.
    """

    subject: str
    ok: bool
    reason: str
    token_age_s: float | None = None


@dataclass(frozen=True)
class HealthReport:
    """The result of a check.

    Attributes:
        ok: whether every subject is well.
    """

    level: Level
    ok: bool
    findings: tuple[Finding, ...]

    @property
    def status(self) -> int:
        """What HTTP says: 200 or 503."""
        return 200 if self.ok else 503

    def to_dict(self) -> dict[str, Any]:
        """As JSON, the same from the API and from the command."""
        return {
            "level": self.level,
            "ok": self.ok,
            "findings": [vars(finding) for finding in self.findings],
        }


class Health:
    """Watches engines. It is a subscriber: `with subscribed(health): ...` lets it see traffic.

    Args:
        subjects: engines by the names that events call them by: a policy's names, or model
            strings.
        within_s: how old the last token may be before the deep check asks for one.
        patience_s: how long a deep check waits for it.
        now: tells the time.
        start: runs a probe beside the caller; on a daemon thread when left out.
    """

    def __init__(
        self,
        subjects: Mapping[str, Subject],
        *,
        within_s: float = 60.0,
        patience_s: float = 10.0,
        now: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        if not within_s > 0 or not patience_s > 0:
            raise InvalidInput(
                f"within_s and patience_s must be above 0, got {within_s!r} and {patience_s!r}"
            )
        self._watched = {
            name: _Watched(name, subject, now, start or _on_a_thread)
            for name, subject in subjects.items()
        }
        self._within_s = within_s
        self._patience_s = patience_s

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        if isinstance(event, GenerationFinished):
            seen = self._watched.get(event.model)
        elif isinstance(event, AttemptFinished) and event.first_token_s is not None:
            seen = self._watched.get(event.engine)
        else:
            return
        if seen is not None:
            seen.saw_token()

    def check(self, level: str) -> HealthReport:
        """Look.

        Args:
            level: "live": this process answers. "ready": calls would be taken now. "deep": a
                token was generated lately, or is now.

        Raises:
            InvalidInput: no such level.
        """
        chosen = known_level(level)
        if chosen == "live":
            return HealthReport(chosen, True, (Finding("process", True, "answers"),))
        if chosen == "ready":
            found = tuple(each.ready() for each in self._watched.values())
        else:
            for each in self._watched.values():
                each.ask(self._within_s)
            due = time.monotonic() + self._patience_s
            found = tuple(
                each.deep(self._within_s, max(due - time.monotonic(), 0.0))
                for each in self._watched.values()
            )
        return HealthReport(chosen, all(finding.ok for finding in found), found)


class _Watched:
    """One subject, the last token seen of it, and at most one probe on its way."""

    def __init__(
        self,
        name: str,
        subject: Subject,
        now: Callable[[], float],
        start: Callable[[Callable[[], None]], None],
    ) -> None:
        self._name = name
        self._subject = subject
        self._now = now
        self._start = start
        self._changed = threading.Condition()
        self._seen_at: float | None = None
        self._asked_at: float | None = None
        self._failure: str | None = None

    def saw_token(self) -> None:
        with self._changed:
            self._seen_at = self._now()
            self._failure = None
            self._changed.notify_all()

    def ready(self) -> Finding:
        taken = bool(getattr(self._subject, "alive", True))
        reason = "takes calls" if taken else "takes no calls now"
        return Finding(self._name, taken, reason, self._age())

    def ask(self, within_s: float) -> None:
        """Send a probe if no token is fresh enough and none is on its way."""
        with self._changed:
            if self._fresh(within_s) or self._asked_at is not None:
                return
            self._asked_at = self._now()
            self._failure = None
        self._start(self._probe)

    def deep(self, within_s: float, patience_s: float) -> Finding:
        """Wait for a token, or for word that none will come."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._fresh(within_s) or self._failure is not None, patience_s
            )
            age = self._age()
            if self._fresh(within_s):
                return Finding(self._name, True, "tokens come", age)
            if self._failure is not None:
                return Finding(self._name, False, self._failure, age)
            waited_s = self._now() - (self._asked_at or self._now())
            return Finding(
                self._name, False, f"a probe has waited {waited_s:.3g} s for a token", age
            )

    def _probe(self) -> None:
        failure: str | None = None
        try:
            failure = _fault_of(self._subject.complete(PROBE))
        except Exception as error:  # noqa: BLE001 - whatever went wrong is the finding
            told = " ".join(str(error).split())
            failure = f"a probe failed: {type(error).__name__}: {told}"
        with self._changed:
            self._asked_at = None
            if failure is None:
                self._seen_at = self._now()
            self._failure = failure
            self._changed.notify_all()

    def _age(self) -> float | None:
        return None if self._seen_at is None else self._now() - self._seen_at

    def _fresh(self, within_s: float) -> bool:
        age = self._age()
        return age is not None and age <= within_s


PROBE = Request(
    model="health",
    messages=(Message.user("Say ok."),),
    config=Config(max_tokens=1, temperature=0.0),
)
"""The question that asks for one token."""


def _fault_of(response: Response) -> str | None:
    data = response.provider_data if isinstance(response.provider_data, dict) else {}
    if data.get(GENERATED) is False:
        by = data.get("answered_by")
        return f"no model generates; {by or 'a ready answer'} stands in for it"
    if not response.usage.output_tokens and not response.text:
        return "the model's answer holds no token"
    return None


def _on_a_thread(job: Callable[[], None]) -> None:
    threading.Thread(target=job, name="dspy-tk health", daemon=True).start()
