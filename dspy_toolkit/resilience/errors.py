"""How a guarded call fails, and what each failure means for retries, breakers and fallbacks.

Every error here is both a `ToolkitError` and an error of DSPy's engine contract, so that DSPy
hands it on under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping

from dspy_toolkit.contract import (
    RETRYABLE_ERRORS,
    CapabilityError,
    ConfigurationError,
    ContextLengthError,
    InvalidRequestError,
    LM15Error,
    ProviderError,
    ServerError,
    TimeoutError,
    UnsupportedModelError,
)
from dspy_toolkit.errors import EngineError


class Refused(ServerError, EngineError):  # type: ignore[misc]  # DSPy ships no types
    """The engine was not asked. The same call may be taken later.

    Attributes:
        reason: "circuit_open", "full", "queue_timeout" or "deadline".
    """

    retryable = True
    reason = ""


class CircuitOpen(Refused):
    """The engine failed too often and is left alone for a while."""

    reason = "circuit_open"

    def __init__(self, engine: str, retry_after: float | None) -> None:
        until = "its probes come back" if retry_after is None else f"{retry_after:.3g} s from now"
        super().__init__(f"engine {engine!r} failed too often and is left alone until {until}")
        self.retry_after = retry_after


class Full(Refused):
    """The engine holds as many calls as it may."""

    reason = "full"

    def __init__(self, engine: str, running: int, queued: int) -> None:
        super().__init__(
            f"engine {engine!r} is full ({running} calls running, {queued} waiting); "
            "send fewer at once or raise its bulkhead"
        )


class QueueTimeout(Refused):
    """No place became free before the deadline."""

    reason = "queue_timeout"

    def __init__(self, engine: str, waited_s: float) -> None:
        super().__init__(
            f"engine {engine!r} had no free place for {waited_s:.3g} s, as long as the deadline "
            "allows; send fewer calls at once or raise deadline_s"
        )


class DeadlineUnreachable(Refused):
    """The time that is left is shorter than such calls take."""

    reason = "deadline"

    def __init__(self, engine: str, left_s: float, expected_s: float) -> None:
        super().__init__(
            f"engine {engine!r} takes about {expected_s:.3g} s now and {max(left_s, 0.0):.3g} s "
            "are left until the deadline; give the call more time or the engine less to do"
        )


class CallTimeout(TimeoutError, EngineError):  # type: ignore[misc]  # DSPy ships no types
    """An attempt took too long and was given up on.

    Attributes:
        limit: "first_token", "between_tokens", "whole" or "deadline".
        seconds: its length.
    """

    retryable = True

    def __init__(self, engine: str, limit: str, seconds: float) -> None:
        super().__init__(
            f"engine {engine!r} gave no {_AWAITED[limit]} within {seconds:.3g} s ({limit})"
        )
        self.limit = limit
        self.seconds = seconds


class RubbishAnswer(ServerError, EngineError):  # type: ignore[misc]  # DSPy ships no types
    """The answer was looked at and not accepted."""

    retryable = True

    def __init__(self, engine: str, text: str | None) -> None:
        super().__init__(
            f"engine {engine!r} gave an answer that is not acceptable: {(text or '')[:80]!r}"
        )


class BrokenEngine(ProviderError, EngineError):  # type: ignore[misc]  # DSPy ships no types
    """The engine raised something its contract does not know; the cause holds it."""

    def __init__(self, engine: str, error: Exception) -> None:
        super().__init__(
            f"engine {engine!r} broke: {type(error).__name__}: {error}".splitlines()[0]
        )


class EveryEngineFailed(ServerError, EngineError):  # type: ignore[misc]  # DSPy ships no types
    """No engine of the chain gave an answer.

    Attributes:
        errors: each engine's last error by its name, in the order asked.
    """

    def __init__(self, errors: Mapping[str, Exception]) -> None:
        told = "; ".join(
            f"{name}: {type(error).__name__}: {error}".splitlines()[0]
            for name, error in errors.items()
        )
        super().__init__(f"no engine answered ({told})")
        self.errors = dict(errors)

    @property
    def retryable(self) -> bool:  # type: ignore[override]
        """Whether the same call may succeed later."""
        return any(isinstance(error, RETRYABLE_ERRORS) for error in self.errors.values())


def may_pass(error: BaseException) -> bool:
    """Whether the same engine may answer when asked again."""
    return isinstance(error, RETRYABLE_ERRORS) and not isinstance(error, Refused)


def blames_engine(error: BaseException) -> bool:
    """Whether a breaker counts it. What the request itself is wrong about counts as nothing."""
    callers = (InvalidRequestError, CapabilityError, ConfigurationError)
    return isinstance(error, LM15Error) and not isinstance(error, callers)


def another_may_answer(error: BaseException) -> bool:
    """Whether a fallback makes sense: not for a request that is wrong for every engine."""
    if isinstance(error, ContextLengthError | UnsupportedModelError):
        return True
    return isinstance(error, LM15Error) and not isinstance(error, InvalidRequestError)


def kind_of(error: BaseException) -> str:
    """A word for an error, one of few: what metrics and events call it."""
    if isinstance(error, Refused):
        return error.reason
    return (isinstance(error, LM15Error) and error.code) or "unexpected"


_AWAITED = {
    "first_token": "first token",
    "between_tokens": "further token",
    "whole": "whole answer",
    "deadline": "answer",
}
