"""Compile DSPy programs for the models your own machine can run.

The public names are loaded when first used, so that importing the package costs nothing and a
fast BLAS can be put in place before MLX is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspy_toolkit.compiler.evaluation import evaluate
    from dspy_toolkit.compiler.run import CompileOptions, compile_program, compile_task
    from dspy_toolkit.config import Settings, load_settings
    from dspy_toolkit.errors import ToolkitError
    from dspy_toolkit.programs.artifact import load_artifact
    from dspy_toolkit.programs.lm import LocalLM
    from dspy_toolkit.programs.opening import local_lm
    from dspy_toolkit.programs.signature import load_signature
    from dspy_toolkit.programs.task import load_task

__all__ = [
    "CompileOptions",
    "LocalLM",
    "Settings",
    "ToolkitError",
    "compile_program",
    "compile_task",
    "evaluate",
    "load_artifact",
    "load_settings",
    "load_signature",
    "load_task",
    "local_lm",
]

_HOMES = {
    "CompileOptions": "compiler.run",
    "LocalLM": "programs.lm",
    "Settings": "config",
    "ToolkitError": "errors",
    "compile_program": "compiler.run",
    "compile_task": "compiler.run",
    "evaluate": "compiler.evaluation",
    "load_artifact": "programs.artifact",
    "load_settings": "config",
    "load_signature": "programs.signature",
    "load_task": "programs.task",
    "local_lm": "programs.opening",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
