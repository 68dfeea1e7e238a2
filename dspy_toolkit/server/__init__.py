"""HTTP over models and programs: OpenAI's interface, and a typed path for each program.

Names are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspy_toolkit.server.app import create_app
    from dspy_toolkit.server.catalog import Catalog, ServedModel
    from dspy_toolkit.server.gateway import Door, Gateway
    from dspy_toolkit.server.health import CatalogHealth
    from dspy_toolkit.server.keys import Keys
    from dspy_toolkit.server.prediction_cache import PredictionCache
    from dspy_toolkit.server.running import Awaited, Listening, Server
    from dspy_toolkit.server.service import Service

_PLACES = {
    "Awaited": "running",
    "Catalog": "catalog",
    "CatalogHealth": "health",
    "Door": "gateway",
    "Gateway": "gateway",
    "Keys": "keys",
    "Listening": "running",
    "PredictionCache": "prediction_cache",
    "ServedModel": "catalog",
    "Server": "running",
    "Service": "service",
    "create_app": "app",
}

__all__ = [
    "Awaited",
    "Catalog",
    "CatalogHealth",
    "Door",
    "Gateway",
    "Keys",
    "Listening",
    "PredictionCache",
    "ServedModel",
    "Server",
    "Service",
    "create_app",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
