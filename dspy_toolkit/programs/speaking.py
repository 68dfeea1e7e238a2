"""Programs that bring the prompt format along that they were compiled with."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import dspy

from dspy_toolkit.programs.formats import prompt_format

_WRITTEN = "_written_class"


def speaking(program: dspy.Module, name: str) -> dspy.Module:
    """Make a program speak a prompt format wherever it is called, in its copies too.

    Args:
        program: changed in place; it stays an instance of its class.
        name: see `prompt_format`.

    Raises:
        InvalidInput: no format has this name.
    """
    prompt_format(name)
    program.__class__ = _speaking_class(class_of(program), name)
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
def _speaking_class(written: Any, name: str) -> Any:
    """A class of the same shape and name; no wrapper, so that DSPy saves it as before."""

    class Speaking(written):  # type: ignore[misc]  # DSPy ships no types
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with dspy.context(adapter=prompt_format(name)):
                return super().__call__(*args, **kwargs)

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            with dspy.context(adapter=prompt_format(name)):
                return await super().acall(*args, **kwargs)

    for key in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Speaking, key, getattr(written, key))
    setattr(Speaking, _WRITTEN, written)
    return Speaking
