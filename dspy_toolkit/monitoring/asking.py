"""Asking a running server how it is."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from dspy_toolkit.errors import EngineError, InvalidInput
from dspy_toolkit.monitoring.health import Finding, HealthReport, Level, known_level

_JSON = "application/json"


def ask_health(
    url: str, level: str, key: str | None = None, timeout_s: float = 30.0
) -> HealthReport:
    """The health of a server, as it tells it. One that does not answer is not well.

    Args:
        url: of the server, for example "http://127.0.0.1:8000".
        key: the server's key, where it asks for one.

    Raises:
        InvalidInput: no such level, no address of a server, or it refuses the key.
    """
    chosen = known_level(level)
    _check_address(url)
    try:
        status, body = _get(f"{url.rstrip('/')}/health/{chosen}", key, timeout_s)
    except (OSError, HTTPException) as error:
        return _unwell(chosen, f"{url} does not answer: {_reason(error)}")
    if status in (401, 403):
        raise InvalidInput(f"{url} refuses to tell its {chosen} health: {_refusal(status, key)}")
    report = _report(body)
    if report is None:
        return _unwell(chosen, f"{url} answers HTTP {status} without a report of its health")
    return report


def ask_metrics(url: str, key: str | None = None, timeout_s: float = 10.0) -> str:
    """The metrics of a server, in Prometheus's text format.

    Args:
        url: of the server, or of its metrics if they are elsewhere than at `/metrics`.

    Raises:
        EngineError: the server does not answer. InvalidInput: it refuses.
    """
    _check_address(url)
    address = url.rstrip("/")
    if not address.endswith("/metrics"):
        address += "/metrics"
    try:
        status, body = _get(address, key, timeout_s)
    except (OSError, HTTPException) as error:
        raise EngineError(
            f"{address} does not answer ({_reason(error)}); is the server running?"
        ) from None
    if status in (401, 403):
        raise InvalidInput(f"{address} refuses: {_refusal(status, key)}")
    if status != 200:
        raise InvalidInput(f"{address} answers HTTP {status}; give the address of a server")
    return body


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        well = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        # Its port is no number, or none that a port may have.
        well = False
    if not well or any(each.isspace() for each in url):
        raise InvalidInput(
            f"{url!r} is not the address of a server; give one such as http://127.0.0.1:8000"
        )


def _refusal(status: int, key: str | None) -> str:
    if key is None:
        return f"HTTP {status}, no key was given; give one with --key-file"
    if status == 403:
        return "HTTP 403, the key is made for something else; give one of the scope admin"
    return "HTTP 401, the key is not valid there; `dspy-tk keys list` on its machine shows why"


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    told = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(told).split())


def _get(address: str, key: str | None, timeout_s: float) -> tuple[int, str]:
    headers = {"Accept": f"{_JSON}, text/plain"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            return reply.status, reply.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode("utf-8", "replace")


def _report(body: str) -> HealthReport | None:
    try:
        told: dict[str, Any] = json.loads(body)
        findings = tuple(Finding(**finding) for finding in told["findings"])
        return HealthReport(known_level(told["level"]), bool(told["ok"]), findings)
    except (ValueError, TypeError, KeyError, InvalidInput):
        return None


def _unwell(level: Level, reason: str) -> HealthReport:
    return HealthReport(level, False, (Finding("server", False, reason),))
