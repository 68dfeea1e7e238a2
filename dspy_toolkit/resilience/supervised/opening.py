"""Which engine a child opens: a function by its name and JSON arguments, or a saved engine."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dspy_toolkit.errors import InvalidInput


@dataclass(frozen=True)
class Opening:
    """How a child gets its engine.

    Attributes:
        function: "module:name" of what returns the engine; it is imported in the child.
        arguments: its keyword arguments, as JSON values.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        module, colon, name = self.function.partition(":")
        if not (module and colon and name):
            raise InvalidInput(f"function must be written 'module:name', got {self.function!r}")

    def open(self) -> Any:
        """Open the engine, here."""
        module, _, name = self.function.partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found(**self.arguments)
