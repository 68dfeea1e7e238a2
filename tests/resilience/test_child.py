from __future__ import annotations

import errno

import pytest

from dspy_toolkit.contract import ContextLengthError, RateLimitError, ServerError
from dspy_toolkit.resilience.errors import Full
from dspy_toolkit.resilience.supervised.child import out_of_memory
from dspy_toolkit.resilience.supervised.wire import error_frame, error_of


def caused_by(cause: BaseException) -> ServerError:
    error = ServerError("the engine failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("[metal::malloc] Attempting to allocate: Insufficient Memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (caused_by(RuntimeError("CUDA error: out of memory")), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (ServerError("the engine failed"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_failures(
    error: BaseException, expected: bool
) -> None:
    assert out_of_memory(error) is expected


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("slow down", retry_after=2.0, status=429),
        ContextLengthError("too long", provider="mlx"),
        Full("local", 1, 2),
    ],
)
def test_errors_cross_the_wire_as_the_contracts_own(error: Exception) -> None:
    again = error_of(error_frame(error))

    assert isinstance(error, type(again))
    assert str(again) == str(error)
    assert getattr(again, "retry_after", None) == getattr(error, "retry_after", None)


def test_an_error_the_contract_does_not_know_becomes_a_failure_of_the_engine() -> None:
    again = error_of(error_frame(KeyError("x\ny")))

    assert isinstance(again, ServerError)
    assert "KeyError" in str(again)
    assert "\n" not in str(again)
