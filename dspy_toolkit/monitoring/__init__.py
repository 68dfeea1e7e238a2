"""What runs here, and how well: metrics kept from events, and health that is looked for.

Names are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspy_toolkit.monitoring.catalog import CATALOG, MetricFacts
    from dspy_toolkit.monitoring.health import Finding, Health, HealthReport, Subject
    from dspy_toolkit.monitoring.metrics import CONTENT_TYPE, Metrics

_PLACES = {
    "CATALOG": "catalog",
    "CONTENT_TYPE": "metrics",
    "Finding": "health",
    "Health": "health",
    "HealthReport": "health",
    "MetricFacts": "catalog",
    "Metrics": "metrics",
    "Subject": "health",
}

__all__ = [
    "CATALOG",
    "CONTENT_TYPE",
    "Finding",
    "Health",
    "HealthReport",
    "MetricFacts",
    "Metrics",
    "Subject",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
