"""Versions of programs that go forward and back: bundles, aliases, and servers that follow them.

Names are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspy_toolkit.deployment.archive import export_bundle, import_bundle
    from dspy_toolkit.deployment.bundle import Bundle, PushOptions
    from dspy_toolkit.deployment.difference import differences
    from dspy_toolkit.deployment.follower import Follower, following
    from dspy_toolkit.deployment.promotion import examine, promote, rollback
    from dspy_toolkit.deployment.store import Deployment, Deployments
    from dspy_toolkit.deployment.units import Unit, write_unit

_PLACES = {
    "Bundle": "bundle",
    "Deployment": "store",
    "Deployments": "store",
    "Follower": "follower",
    "PushOptions": "bundle",
    "Unit": "units",
    "differences": "difference",
    "examine": "promotion",
    "export_bundle": "archive",
    "following": "follower",
    "import_bundle": "archive",
    "promote": "promotion",
    "rollback": "promotion",
    "write_unit": "units",
}

__all__ = [
    "Bundle",
    "Deployment",
    "Deployments",
    "Follower",
    "PushOptions",
    "Unit",
    "differences",
    "examine",
    "export_bundle",
    "following",
    "import_bundle",
    "promote",
    "rollback",
    "write_unit",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
