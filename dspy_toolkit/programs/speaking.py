"""Programs that bring the prompt format along that they were compiled with, and want their inputs.

DSPy asks a model all the same where an input is missing, and warns; what comes back is no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import dspy

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.formats import prompt_format

_WRITTEN = "_written_class"


def speaking(program: dspy.Module, name: str, required: tuple[str, ...] = ()) -> dspy.Module:
    """Make a program speak a prompt format wherever it is called, in its copies too.

    Args:
        program: changed in place; it stays an instance of its class. Calls of it raise
            InvalidInput where a required input is missing.
        name: see `prompt_format`.
        required: names of inputs, see `modules.required_inputs`.

    Raises:
        InvalidInput: no format has this name.
    """
    prompt_format(name)
    program.__class__ = _speaking_class(class_of(program), name, required)
    return program


def silenced(program: dspy.Module) -> dspy.Module:
    """Take the format away again, in place."""
    program.__class__ = class_of(program)
    return program


def class_of(program: dspy.Module) -> Any:
    """A program's class as its author wrote it."""
    made = type(program)
    return vars(made).get(_WRITTEN, made)


@lru_cache
def _speaking_class(written: Any, name: str, required: tuple[str, ...]) -> Any:
    """A class of the same shape and name; no wrapper, so that DSPy saves it as before."""

    class Speaking(written):  # type: ignore[misc]  # DSPy ships no types
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            _check_inputs(required, kwargs)
            with dspy.context(adapter=prompt_format(name)):
                return super().__call__(*args, **kwargs)

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            _check_inputs(required, kwargs)
            with dspy.context(adapter=prompt_format(name)):
                return await super().acall(*args, **kwargs)

    for key in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Speaking, key, getattr(written, key))
    setattr(Speaking, _WRITTEN, written)
    return Speaking


def _check_inputs(required: tuple[str, ...], given: Mapping[str, Any]) -> None:
    for name in required:
        if name not in given:
            raise InvalidInput(f"input {name!r} is missing; give {', '.join(required)}")
