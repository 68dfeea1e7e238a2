"""The models of a run: checked before anything is loaded, opened, and given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dspy_toolkit.config import Settings
from dspy_toolkit.engine.source import (
    HUB_ID,
    check_tokenizer,
    download,
    find_source,
    read_config,
    weight_files,
)
from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.lm import LocalLM
from dspy_toolkit.programs.opening import local_lm, model_string
from dspy_toolkit.programs.remote_lm import PREFIX, remote_string
from dspy_toolkit.programs.task import Task

EMBEDDED = "embedded"
T = TypeVar("T")


def check_model(model: str | LocalLM | None, *, fetched: bool = True) -> None:
    """Refuse a model that cannot be opened, without opening it.

    Args:
        model: a reference, or one made in Python.
        fetched: whether a hub id that is not on this machine is downloaded, as opening it would;
            else it is taken for granted.

    Raises:
        NotFound, InvalidInput, EngineError: there is none of this name, or it is no model.
    """
    if not isinstance(model, str):
        countable(model)
    elif model.startswith(PREFIX):
        remote_string(model)
    elif fetched or not HUB_ID.fullmatch(model):
        folder = find_source(model, fetch=download).folder
        read_config(folder)
        weight_files(folder)
        check_tokenizer(folder)


def open_model(
    task: Task, settings: Settings, model: str | None = None, adapter: Path | None = None
) -> LocalLM:
    """Open the model a task is to run on: the one named, the task's, or the settings'.

    Raises:
        InvalidInput: the task says the embedded model is too small, and no other is named.
        NotFound, EngineError: the model cannot be opened.
    """
    reference = reference_for(task, settings, model)
    return local_lm(reference, adapter=adapter, settings=settings, **task.generation)


def reference_for(task: Task, settings: Settings, model: str | None = None) -> str:
    """The model a task is to run on: the one named, the task's, or the settings'.

    Raises:
        InvalidInput: the task says the embedded model is too small, and no other is named.
    """
    reference = model or task.model or settings.model
    if model is None and reference == EMBEDDED and task.needs_larger_model:
        raise InvalidInput(
            f"task {task.name} needs a larger model than the embedded one: "
            f"{task.needs_larger_model}; name one with --model"
        )
    return reference


def names_of(
    model: str | LocalLM | None, settings: Settings, adapter: Path | None = None, **options: Any
) -> tuple[str, ...]:
    """What a model is called, without loading it; see `Models`.

    Raises:
        NotFound, InvalidInput, EngineError: there is none of this name, or it is no model.
    """
    check_model(model)
    if isinstance(model, str):
        return model, model_string(model, settings, adapter=adapter, **options)
    return model.names if model is not None else ()


@contextmanager
def helper(model: str | LocalLM | None, seed: int, settings: Settings) -> Iterator[LocalLM | None]:
    """A teacher or prompt model: opened for the block, or as it was given."""
    if not isinstance(model, str):
        yield None if model is None else countable(model).copy(seed=seed)
        return
    opened = local_lm(model, seed=seed, settings=settings)
    try:
        yield opened
    finally:
        opened.release()


def countable(lm: T) -> T:
    """A model from Python, if a run can count its calls."""
    if lm is not None and not isinstance(lm, LocalLM):
        raise InvalidInput(
            f"lm is a {type(lm).__name__}, whose calls cannot be counted; give local_lm(...), or "
            "LocalLM('provider/model', engine='auto') for a model elsewhere"
        )
    return lm
