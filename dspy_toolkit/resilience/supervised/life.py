"""One life of a child: the process, the link to it, and how it is ended."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping
from dataclasses import asdict

import psutil

from dspy_toolkit.resilience.supervised.opening import Opening
from dspy_toolkit.resilience.supervised.wire import Frame, Link

_CHILD = "dspy_toolkit.resilience.supervised.child"
# Room for many answers at once, so that a busy end need not come back to send the rest.
_BUFFER_BYTES = 1 << 21


class Life:
    """A process that was started to open engines.

    It is a new Python, never a fork: a model's threads and locks do not survive one.

    Raises:
        OSError: the system starts no process now.
    """

    def __init__(self, openings: Mapping[int, Opening], beat_s: float) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        with theirs, contextlib.ExitStack() as unless_started:
            unless_started.callback(ours.close)
            self._process = subprocess.Popen(
                [sys.executable, "-m", _CHILD, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            unless_started.pop_all()
        self.link = Link(ours)
        # A stopped process would outlive this one.
        self._finalizer = weakref.finalize(self, _end, self._process)
        with contextlib.suppress(OSError):
            given = {number: asdict(each) for number, each in openings.items()}
            self.link.send({"path": sys.path, "openings": given, "beat_s": beat_s})

    @property
    def process_id(self) -> int:
        """Of the child."""
        return self._process.pid

    @property
    def stopped(self) -> bool:
        """Whether the system has it stopped."""
        with contextlib.suppress(psutil.Error):
            return bool(psutil.Process(self.process_id).status() == psutil.STATUS_STOPPED)
        return False

    @property
    def resident_bytes(self) -> int:
        """Main memory that it holds."""
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(self.process_id).memory_info().rss)
        return 0

    def receive(self) -> list[Frame]:
        """What it has sent.

        Raises:
            ConnectionError: it is gone.
        """
        return self.link.receive()

    def end(self, patience_s: float = 0.0) -> int:
        """End it, whatever it does, and give its exit status.

        Args:
            patience_s: how long it may take to close its engines by itself.
        """
        if patience_s and not self.stopped:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self.link.send({"end": True})
                self._process.wait(patience_s)
        self.link.close()
        self._finalizer.detach()
        return _end(self._process)


def ending(status: int) -> str:
    """How a process with this exit status ended, in words."""
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def _end(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    return process.wait()
