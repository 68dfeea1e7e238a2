"""What callers are told when a request cannot be answered, in OpenAI's form."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from dspy_toolkit.contract import (
    AuthError,
    CapabilityError,
    ConfigurationError,
    ContextLengthError,
    InvalidRequestError,
    LM15Error,
    RateLimitError,
    ServerError,
    TimeoutError,
    TransportError,
    UnsupportedFeatureError,
)
from dspy_toolkit.errors import InvalidInput, NotFound, ToolkitError, nearest

_RETRY_S = 1.0
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# What an engine's message may name beside the request: the way to files, the layers below.
_OWN_WORDS = (InvalidRequestError, ContextLengthError, UnsupportedFeatureError)


class ApiError(Exception):
    """A request that is refused or could not be answered.

    Attributes:
        status: of HTTP.
        param: the field at fault, as a path: `messages[0].content`.
        code: for programs.
        retry_after_s: when the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        """The answer's body."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else _KINDS[400])
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def headers(self) -> dict[str, str]:
        """The answer's headers beside the usual ones."""
        if self.retry_after_s is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}


def unknown_model(name: str, known: Iterable[str]) -> ApiError:
    """No model or program has this name; the answer lists those there are."""
    names = sorted(known)
    listed = f"known: {', '.join(names)}" if names else "none is served"
    close = nearest(name, names)
    hint = f"{close} " if close.startswith("did you mean") else ""
    return ApiError(
        404,
        f"the model {name[:100]!r} does not exist here; {hint}{listed}",
        param="model",
        code="model_not_found",
    )


def still_loading(name: str) -> ApiError:
    """The name is served soon."""
    return ApiError(
        503, f"{name!r} is still being loaded; ask again", code="loading", retry_after_s=_RETRY_S
    )


def not_opened(name: str) -> ApiError:
    """The name was to be served, and could not be loaded."""
    return ApiError(
        503, f"{name!r} could not be loaded; the server's output says why", code="not_loaded"
    )


def stopping() -> ApiError:
    """The server is going down."""
    return ApiError(
        503,
        "the server is stopping; ask again, there or elsewhere",
        code="stopping",
        retry_after_s=_RETRY_S,
    )


def unexpected(request_id: str) -> ApiError:
    """Something broke that should not; the log names it by the same id."""
    return ApiError(
        500,
        f"the server failed on request {request_id}; report this id to whoever runs it",
        code="internal_error",
    )


def from_engine(error: LM15Error) -> ApiError:
    """What an engine's refusal or failure means for a caller over HTTP."""
    match error:
        case ContextLengthError():
            return ApiError(400, _plain(error), param="messages", code="context_length_exceeded")
        case UnsupportedFeatureError():
            feature = str(getattr(error, "feature", None) or "").removeprefix("config.")
            return ApiError(400, _plain(error), param=feature or None, code="unsupported")
        case InvalidRequestError() | CapabilityError():
            return ApiError(400, _plain(error), code="invalid_request")
        case RateLimitError():
            after = error.retry_after or _RETRY_S
            return ApiError(429, "the model's limit is reached", retry_after_s=after)
        case TimeoutError():
            return ApiError(504, "the model took too long", code="timeout", retry_after_s=_RETRY_S)
        case ServerError() | TransportError():
            after = getattr(error, "retry_after", None) or _RETRY_S
            return ApiError(
                503, "the model cannot answer now", code="model_unavailable", retry_after_s=after
            )
        case AuthError() | ConfigurationError():
            return ApiError(502, "the model is not set up rightly", code="model_misconfigured")
    return ApiError(502, "the model failed", code="model_failed")


def from_toolkit(error: ToolkitError) -> ApiError:
    """What an error of the toolkit means for a caller over HTTP."""
    reason = getattr(error, "reason", None)
    if reason == "too_long":
        return ApiError(400, str(error), param="inputs", code="context_length_exceeded")
    if reason == "timeout":
        return ApiError(504, str(error), code="timeout", retry_after_s=_RETRY_S)
    if reason == "busy":
        after = getattr(error, "retry_after_s", None) or _RETRY_S
        return ApiError(503, str(error), code="model_unavailable", retry_after_s=after)
    if reason == "unusable":
        return ApiError(502, str(error), code="unusable_answer")
    if isinstance(error, InvalidInput):
        problems = getattr(error, "problems", ())
        param = f"inputs.{problems[0].field}" if problems else "inputs"
        return ApiError(400, str(error), param=param, code="invalid_inputs")
    if isinstance(error, NotFound):
        return ApiError(404, str(error), code="not_found")
    return ApiError(502, "the program failed", code="program_failed")


def _plain(error: LM15Error) -> str:
    if not isinstance(error, _OWN_WORDS):
        return "refused"
    # DSPy adds advice for Python programs to some.
    text = error.message.partition("To fix:")[0]
    return " ".join(text.split()).removesuffix("(mlx)").rstrip()[:500]
