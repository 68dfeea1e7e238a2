"""New task folders, which compile before anything in them is changed."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from dspy_toolkit.programs.task_file import check_name
from dspy_toolkit.store.files import new_folder, write_text

_FILLED = ("task.toml", "signature.toml", "README.md")


def new_task(folder: Path) -> Path:
    """Write a task with a signature and a small data set of its own.

    Args:
        folder: must not exist yet; its last part becomes the task's name.

    Returns:
        The folder.

    Raises:
        InvalidInput: the folder exists, or its name cannot be a task's.
        StorageError: it cannot be written.
    """
    place = folder.expanduser().absolute()
    check_name(place.name, "task name")
    words = {
        "name": place.name,
        "folder": str(folder),
        "signature": re.sub(r"^(?=\d)", "task_", place.name.replace("-", "_")),
    }
    with new_folder(place) as temporary:
        _copy(files("dspy_toolkit.programs").joinpath("starter"), temporary, words)
    return place


def _copy(source: Traversable, target: Path, words: dict[str, str]) -> None:
    for item in source.iterdir():
        if item.is_dir():
            _copy(item, target / item.name, words)
            continue
        text = item.read_text("utf-8")
        for key, value in words.items() if item.name in _FILLED else ():
            text = text.replace(f"{{{key}}}", value)
        write_text(target / item.name, text)
