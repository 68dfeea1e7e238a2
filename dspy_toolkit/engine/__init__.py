"""MLX inference behind DSPy's engine contract."""

from dspy_toolkit.engine.catalog import describe_model, list_models, pull_model
from dspy_toolkit.engine.opening import open_engine
from dspy_toolkit.engine.options import EngineOptions

__all__ = ["EngineOptions", "describe_model", "list_models", "open_engine", "pull_model"]
