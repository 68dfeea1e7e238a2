"""A real HTTP server that tells health and metrics, for the commands that ask one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dspy_toolkit.monitoring import CONTENT_TYPE, Health, Metrics


@contextmanager
def serving(health: Health, metrics: Metrics, key: str | None = None) -> Iterator[str]:
    """Serve on an ephemeral port; yields the address. The key "other" is one for other things."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization")
            if key is not None and given != f"Bearer {key}":
                self._send(403 if given == "Bearer other" else 401, "text/plain", b"who are you?")
            elif self.path == "/metrics":
                self._send(200, CONTENT_TYPE, metrics.exposition())
            elif self.path.startswith("/health/"):
                report = health.check(self.path.removeprefix("/health/"))
                body = json.dumps(report.to_dict()).encode()
                self._send(report.status, "application/json", body)
            else:
                self._send(404, "text/plain", b"nothing here")

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
