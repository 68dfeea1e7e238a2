"""What a policy says: how calls to each engine are bounded, repeated, broken off and replaced.

Records only. Each refuses what contradicts itself when it is built, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from dspy_toolkit.errors import InvalidInput, nearest


@dataclass(frozen=True)
class BulkheadPolicy:
    """How many calls one engine may hold. Whoever finds no place is refused at once.

    Attributes:
        max_concurrent: calls running; a call given up on counts until it has really ended.
        max_queued: calls waiting for a place.
    """

    max_concurrent: int = 32
    max_queued: int = 128

    def __post_init__(self) -> None:
        _whole("max_concurrent", self.max_concurrent, 1)
        _whole("max_queued", self.max_queued, 0)


@dataclass(frozen=True)
class TimeoutPolicy:
    """How long one attempt may take. None sets no limit.

    With a limit on tokens, `complete` reads the engine's stream and puts the answer together.

    Attributes:
        first_token_s: from the start to the first piece of the answer.
        between_tokens_s: from one piece to the next.
        whole_s: the whole attempt, less the time a reader of a stream takes for itself.
    """

    first_token_s: float | None = None
    between_tokens_s: float | None = None
    whole_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("first_token_s", "between_tokens_s", "whole_s"):
            _seconds(name, getattr(self, name), optional=True)
        for name in ("first_token_s", "between_tokens_s"):
            _not_longer(name, getattr(self, name), "whole_s", self.whole_s)

    @property
    def on_tokens(self) -> bool:
        """Whether single tokens are watched."""
        return self.first_token_s is not None or self.between_tokens_s is not None


@dataclass(frozen=True)
class BreakerPolicy:
    """When an engine is left alone, and how it is tried again.

    Attributes:
        window_calls: judge the last so many calls; or
        window_s: judge the calls of the last so many seconds, in tenths of that.
        minimum_calls: judge nothing on fewer.
        failure_rate: share of failed calls, in (0, 1], that opens the circuit.
        slow_call_s: a call that takes longer is slow. None: none is.
        slow_rate: share of slow calls, in (0, 1], that opens the circuit.
        open_s: how long the circuit stays open, and how long probes may take to come back.
        probes: calls let through then; their rates decide whether it closes.
    """

    window_calls: int | None = None
    window_s: float | None = None
    minimum_calls: int = 10
    failure_rate: float = 0.5
    slow_call_s: float | None = None
    slow_rate: float = 1.0
    open_s: float = 30.0
    probes: int = 3

    def __post_init__(self) -> None:
        if self.window_calls is None and self.window_s is None:
            object.__setattr__(self, "window_calls", 50)
        elif self.window_calls is not None and self.window_s is not None:
            raise InvalidInput("a breaker has window_calls or window_s, not both; remove one")
        _whole("window_calls", self.window_calls, 1, optional=True)
        _seconds("window_s", self.window_s, optional=True)
        _whole("minimum_calls", self.minimum_calls, 1)
        _seconds("slow_call_s", self.slow_call_s, optional=True)
        _share("failure_rate", self.failure_rate)
        _share("slow_rate", self.slow_rate)
        _seconds("open_s", self.open_s)
        _whole("probes", self.probes, 1)
        if self.window_calls is not None and self.minimum_calls > self.window_calls:
            raise InvalidInput(
                f"minimum_calls = {self.minimum_calls} is more than the window_calls = "
                f"{self.window_calls} it is counted in, so the breaker would never open"
            )


@dataclass(frozen=True)
class RetryPolicy:
    """How often one engine is asked again after an error that may pass.

    Attributes:
        attempts: calls of one engine at most, the first among them.
        first_wait_s: before the second attempt; doubled before each further one.
        max_wait_s: the longest wait. An engine that asks for a longer one (retry-after) is not
            asked again; a shorter one is waited in full, if the deadline allows.
        jitter: share of each wait that is drawn by chance, in [0, 1].
    """

    attempts: int = 3
    first_wait_s: float = 0.25
    max_wait_s: float = 10.0
    jitter: float = 1.0

    def __post_init__(self) -> None:
        _whole("attempts", self.attempts, 1)
        _seconds("first_wait_s", self.first_wait_s)
        _seconds("max_wait_s", self.max_wait_s)
        _not_longer("first_wait_s", self.first_wait_s, "max_wait_s", self.max_wait_s)
        if not _number(self.jitter) or not 0 <= self.jitter <= 1:
            raise InvalidInput(f"jitter must lie in [0, 1], got {self.jitter!r}")


@dataclass(frozen=True)
class SheddingPolicy:
    """Refuse a call whose remaining time is shorter than such calls take now.

    Attributes:
        quantile: of the observed times of good answers, in [0, 1].
        window_s: how old an observation may be.
        minimum_calls: refuse nothing on fewer observations.
    """

    quantile: float = 0.5
    window_s: float = 60.0
    minimum_calls: int = 20

    def __post_init__(self) -> None:
        if not _number(self.quantile) or not 0 <= self.quantile <= 1:
            raise InvalidInput(f"quantile must lie in [0, 1], got {self.quantile!r}")
        _seconds("window_s", self.window_s)
        _whole("minimum_calls", self.minimum_calls, 1)


@dataclass(frozen=True)
class EnginePolicy:
    """How one engine is guarded.

    Attributes:
        fallback: the engine asked when this one gives no answer.
        reserve_s: time the engines before this one must leave it of the deadline.
        breaker, shedding: None leaves the guard out.
    """

    fallback: str | None = None
    reserve_s: float = 0.0
    bulkhead: BulkheadPolicy = field(default_factory=BulkheadPolicy)
    timeouts: TimeoutPolicy = field(default_factory=TimeoutPolicy)
    breaker: BreakerPolicy | None = field(default_factory=BreakerPolicy)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    shedding: SheddingPolicy | None = field(default_factory=SheddingPolicy)

    def __post_init__(self) -> None:
        if not _number(self.reserve_s) or not 0 <= self.reserve_s < math.inf:
            raise InvalidInput(f"reserve_s must be 0 or more seconds, got {self.reserve_s!r}")
        if self.fallback is not None and not isinstance(self.fallback, str):
            raise InvalidInput(f"fallback must be the name of an engine, got {self.fallback!r}")
        whole_s = self.timeouts.whole_s
        slow_call_s = self.breaker.slow_call_s if self.breaker else None
        if whole_s is not None and slow_call_s is not None and slow_call_s >= whole_s:
            raise InvalidInput(
                f"slow_call_s = {slow_call_s:g} is not below whole_s = {whole_s:g}, so every slow "
                "call would be a failed one; lower slow_call_s or remove it"
            )


@dataclass(frozen=True)
class Policy:
    """How calls are answered: which engine first, which after it, within what bounds.

    Attributes:
        primary: the engine asked first.
        engines: each engine's policy by name. Every one is the primary or a fallback.
        deadline_s: the whole call, waits and fallbacks among it. None sets no limit.
        attempts: calls of any engine at most. Each fallback keeps one of them. None sets no
            limit beside the engines' own.
    """

    primary: str
    engines: Mapping[str, EnginePolicy]
    deadline_s: float | None = None
    attempts: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "engines", MappingProxyType(dict(self.engines)))
        _seconds("deadline_s", self.deadline_s, optional=True)
        _whole("attempts", self.attempts, 1, optional=True)
        chain = _chain(self)
        unused = sorted(self.engines.keys() - set(chain))
        if unused:
            raise InvalidInput(
                f"engine {unused[0]!r} is neither the primary nor a fallback of an engine in use; "
                "name it as a fallback or remove it"
            )
        if self.attempts is not None and self.attempts < len(chain):
            raise InvalidInput(
                f"attempts = {self.attempts} is fewer than the {len(chain)} engines "
                f"{' -> '.join(chain)}, each of which keeps one attempt; raise it"
            )
        if self.engines[self.primary].reserve_s:
            raise InvalidInput(
                f"engine {self.primary!r} is asked first, so nothing can be kept back for it; "
                "remove its reserve_s"
            )
        if self.deadline_s is not None:
            _check_times(self, chain, self.deadline_s)

    @property
    def chain(self) -> tuple[str, ...]:
        """The engines in the order they are asked."""
        return _chain(self)


def _chain(policy: Policy) -> tuple[str, ...]:
    chain: list[str] = []
    name, namer = policy.primary, "the primary engine"
    while True:
        if name not in policy.engines:
            raise InvalidInput(f"{namer} {name!r} is no engine; {nearest(name, policy.engines)}")
        if chain and name == chain[-1]:
            raise InvalidInput(f"engine {name!r} falls back to itself; name another or none")
        if name in chain:
            circle = " -> ".join([*chain[chain.index(name) :], name])
            raise InvalidInput(f"the fallbacks go in a circle: {circle}; end it at one of them")
        chain.append(name)
        following = policy.engines[name].fallback
        if following is None:
            return tuple(chain)
        name, namer = following, f"engine {name!r}: its fallback"


def _check_times(policy: Policy, chain: tuple[str, ...], deadline_s: float) -> None:
    kept_s = math.fsum(policy.engines[name].reserve_s for name in chain[1:])
    if kept_s >= deadline_s:
        raise InvalidInput(
            f"the fallbacks keep {kept_s:g} s back (reserve_s) of a deadline of {deadline_s:g} s, "
            "which leaves the primary engine none; lower them or raise deadline_s"
        )
    for position, name in enumerate(chain):
        engine = policy.engines[name]
        later_s = math.fsum(policy.engines[each].reserve_s for each in chain[position + 1 :])
        allowed_s = deadline_s - later_s
        times = engine.timeouts
        for key in ("first_token_s", "between_tokens_s", "whole_s"):
            value = getattr(times, key)
            if value is not None and value > allowed_s:
                kept = f" less the {later_s:g} s its fallbacks keep" if later_s else ""
                raise InvalidInput(
                    f"engine {name!r}: {key} = {value:g} is longer than the deadline_s = "
                    f"{deadline_s:g}{kept}; lower it or raise deadline_s"
                )
        if engine.retry.attempts > 1 and engine.retry.first_wait_s >= allowed_s:
            raise InvalidInput(
                f"engine {name!r}: first_wait_s = {engine.retry.first_wait_s:g} leaves no time for "
                f"a second attempt within deadline_s = {deadline_s:g}; lower it or set attempts = 1"
            )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _seconds(name: str, value: object, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not (isinstance(value, int | float) and _number(value) and 0 < value < math.inf):
        raise InvalidInput(f"{name} must be a number of seconds above 0, got {value!r}")


def _whole(name: str, value: object, least: int, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidInput(f"{name} must be a whole number of at least {least}, got {value!r}")


def _share(name: str, value: object) -> None:
    if not (isinstance(value, int | float) and _number(value) and 0 < value <= 1):
        raise InvalidInput(f"{name} must be a share in (0, 1], got {value!r}")


def _not_longer(name: str, value: float | None, limit: str, most: float | None) -> None:
    if value is not None and most is not None and value > most:
        raise InvalidInput(f"{name} = {value:g} is longer than {limit} = {most:g}; lower it")
