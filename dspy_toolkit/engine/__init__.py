"""MLX inference behind DSPy's engine contract."""

from dspy_toolkit.engine.opening import open_engine
from dspy_toolkit.engine.options import EngineOptions

__all__ = ["EngineOptions", "open_engine"]
