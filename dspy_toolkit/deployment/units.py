"""Files that have the system run a server: a systemd unit, or a launchd one on a Mac."""

from __future__ import annotations

import plistlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dspy_toolkit.errors import InvalidInput, nearest

KINDS = ("systemd", "launchd")
LABEL = "dspy-toolkit.serve"
_STOP_S = 45
# What systemd takes, numbers among it.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}")


@dataclass(frozen=True)
class Unit:
    """What the system is to run.

    Attributes:
        command: `dspy-tk` and its arguments.
        home: the toolkit's home.
        user: who runs it, for systemd; None leaves it to a user's own systemd.
    """

    command: Sequence[str]
    home: Path
    user: str | None = None

    def __post_init__(self) -> None:
        if self.user is not None and not _USER.fullmatch(self.user):
            raise InvalidInput(f"{self.user!r} is no name of a user")
        for word in (*self.command, str(self.home), self.user or ""):
            if any(ord(character) < 32 for character in word):
                raise InvalidInput(f"a unit cannot hold control characters, got {word!r}")


def kind_here() -> str:
    """The kind of unit this system runs."""
    return "launchd" if sys.platform == "darwin" else "systemd"


def write_unit(unit: Unit, kind: str | None = None) -> str:
    """The text of a unit.

    Args:
        unit: what to run.
        kind: "systemd" or "launchd"; that of this system when left out.

    Raises:
        InvalidInput: no such kind.
    """
    chosen = kind or kind_here()
    if chosen not in KINDS:
        raise InvalidInput(f"unit kind {chosen!r} does not exist; {nearest(chosen, KINDS)}")
    if chosen == "launchd" and unit.user is not None:
        raise InvalidInput("a launchd unit is for whoever loads it; leave out --user")
    return _launchd(unit) if chosen == "launchd" else _systemd(unit)


def _systemd(unit: Unit) -> str:
    command = " ".join(_quoted(word) for word in unit.command)
    user = f"User={unit.user}\n" if unit.user else ""
    target = "multi-user.target" if unit.user else "default.target"
    return f"""[Unit]
Description=dspy_toolkit: local models and compiled programs over HTTP
After=network.target

[Service]
Type=exec
{user}Environment={_quoted(f"DSPY_TK_HOME={unit.home}")}
ExecStart={command}
Restart=on-failure
RestartSec=2
# Running requests may end first, see --drain-s.
TimeoutStopSec={_STOP_S}
KillSignal=SIGTERM
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ReadWritePaths={_quoted(str(unit.home))}
UMask=0077

[Install]
WantedBy={target}
"""


def _launchd(unit: Unit) -> str:
    content = {
        "Label": LABEL,
        "ProgramArguments": list(unit.command),
        "EnvironmentVariables": {"DSPY_TK_HOME": str(unit.home)},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 5,
        # Running requests may end first, see --drain-s.
        "ExitTimeOut": _STOP_S,
        # Metal's work is held back for background processes.
        "ProcessType": "Interactive",
        "Umask": 0o077,
        "StandardOutPath": str(unit.home / "logs" / "serve.out.log"),
        "StandardErrorPath": str(unit.home / "logs" / "serve.log"),
    }
    return plistlib.dumps(content, sort_keys=False).decode()


def _quoted(word: str) -> str:
    """A word as systemd reads it: its quotes are C's, and % and $ begin what it replaces."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[\s\"'\\;]", word) else escaped
