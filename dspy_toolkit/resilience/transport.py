"""HTTP for threads that stops reading when nobody waits for the answer any more."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

from dspy_toolkit.contract import (
    ReadTimeout,
    StdlibTransport,
    TransportRequest,
    TransportResponse,
    gives_up_at,
)

# The caller gives up first, so that it is the one to say why.
GRACE_S = 0.02


class PunctualTransport:
    """DSPy's transport with an eye on `gives_up_at`.

    A thread cannot be taken out of a read. Without this, an endpoint that stalls, or sends signs
    of life and never an answer, would keep the threads of calls that were given up on.

    Args:
        connect_s, read_s: longest waits for a connection and for the next byte.
        max_connections: open at once.
    """

    def __init__(self, connect_s: float, read_s: float, max_connections: int) -> None:
        self._connect_s, self._read_s = connect_s, read_s
        self._inner = StdlibTransport(
            connect_timeout=connect_s, read_timeout=read_s, max_connections=max_connections
        )

    def stream(self, request: TransportRequest) -> TransportResponse:
        """Send a request; its reply is read until it ends or the caller gives up."""
        left_s = gives_up_at.get() - time.monotonic()
        if left_s != math.inf:
            left_s = max(left_s, 0.0) + GRACE_S
            request = replace(
                request,
                connect_timeout=min(request.connect_timeout or self._connect_s, left_s),
                read_timeout=min(request.read_timeout or self._read_s, left_s),
            )
        response = self._inner.stream(request)
        return TransportResponse(
            status=response.status,
            reason=response.reason,
            headers=response.headers,
            http_version=response.http_version,
            chunks=_punctual(response),
            release=lambda body_consumed: response.close(),
        )

    def close(self) -> None:
        """Close every connection."""
        self._inner.close()


def _punctual(chunks: TransportResponse) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        if time.monotonic() > gives_up_at.get() + GRACE_S:
            raise ReadTimeout("the caller of this request has given up")
