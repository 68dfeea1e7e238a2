"""Loading the Python files a task brings: `program.py`, `metric.py`, `tools.py`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.registry.local_modules import importing_from, lock, python_files
from dspy_toolkit.store.files import read_text, sha256_bytes, sha256_file


@dataclass(frozen=True)
class _Loaded:
    """A file that was run, with its digest and those of the modules it imported from beside it."""

    module: ModuleType
    digest: str
    beside: Mapping[Path, str]

    def holds(self, source: str) -> bool:
        """Whether it would be the same if it ran now, with this as the text of the file."""
        return self.digest == sha256_bytes(source.encode()) and all(
            path.is_file() and sha256_file(path) == digest for path, digest in self.beside.items()
        )


_loaded: dict[Path, _Loaded] = {}


def load_function(file: Path, name: str) -> Callable[..., Any]:
    """Run a Python file and take a function out of it.

    At its top the file may import modules and packages beside it. It runs again once one of these
    files has changed; until then, functions taken from it share its globals. Nothing is written
    into its folder.

    Raises:
        NotFound: the file does not exist.
        InvalidInput: it cannot be run, or has no such function.
    """
    module = _run(file)
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        way_out = nearest(name, functions) if functions else f"add `def {name}(...)`"
        raise InvalidInput(f"{file} has no function {name!r}; {way_out}")
    return found  # type: ignore[no-any-return]


def with_modules(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Files of a folder, and all modules and packages that the Python files among them can import.

    Args:
        names: relative to `folder`, as the result is.
    """
    beside = [
        file.relative_to(folder).as_posix()
        for name in names
        if name.endswith(".py")
        for file in python_files((folder / name).parent)
    ]
    return tuple(dict.fromkeys([*names, *beside]))


def failure(error: BaseException, file: Path) -> str:
    """An exception as `file:line: Type: message`, with the innermost line of that file."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(file)
    ]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines = [error.lineno]
    place = f"{file}:{lines[-1]}" if lines else str(file)
    detail = error.msg if isinstance(error, SyntaxError) else error
    text = " ".join(f"{type(error).__name__}: {detail}".split())
    return f"{place}: {text}"


def call(function: Callable[..., Any], file: Path) -> Any:
    """Call a function of a user's file that takes nothing.

    Raises:
        InvalidInput: it raised.
    """
    try:
        return function()
    except Exception as error:
        raise InvalidInput(f"{failure(error, file)}; mend the file and try again") from error


def _run(file: Path) -> ModuleType:
    source = read_text(file, "Python file")
    with lock:
        kept = _loaded.get(file.absolute())
        if kept is None or not kept.holds(source):
            kept = _loaded[file.absolute()] = _executed(file, source)
        return kept.module


def _executed(file: Path, source: str) -> _Loaded:
    key = sha256_bytes(f"{file.absolute()}\n{source}".encode())
    name = f"dspy_toolkit_task_{key[:12]}_{file.stem}"
    module = ModuleType(name)
    module.__file__ = str(file.absolute())
    # Dataclasses and pydantic look the module of a class up here.
    sys.modules[name] = module
    with importing_from(file.parent.absolute()) as beside:
        call(lambda: exec(compile(source, str(file), "exec"), module.__dict__), file)
    digests = {each: sha256_file(each) for each in beside}
    return _Loaded(module, sha256_bytes(source.encode()), digests)
