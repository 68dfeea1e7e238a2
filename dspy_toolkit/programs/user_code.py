"""Loading the Python files a task brings: `program.py`, `metric.py`, `tools.py`."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from dspy_toolkit.errors import InvalidInput, nearest
from dspy_toolkit.store.files import read_text, sha256_bytes

_lock = threading.RLock()
_loaded: dict[str, ModuleType] = {}


def load_function(file: Path, name: str) -> Callable[..., Any]:
    """Run a Python file and take a function out of it.

    The file may import modules beside it. It runs once for each content it has; functions taken
    from it share its globals. Nothing is written into its folder.

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
    key = sha256_bytes(f"{file}\n{source}".encode())
    with _lock:
        if key not in _loaded:
            _loaded[key] = _executed(file, source, f"dspy_toolkit_task_{key[:12]}_{file.stem}")
        return _loaded[key]


def _executed(file: Path, source: str, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(file)
    with _importing_from(file.parent):
        # Dataclasses and pydantic look the module of a class up here.
        sys.modules[name] = module
        call(lambda: exec(compile(source, str(file), "exec"), module.__dict__), file)
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let imports find a folder's modules, and forget them afterwards."""
    before, writes = set(sys.modules), sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    # An artifact's folder must stay as its manifest says.
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            place = getattr(sys.modules[name], "__file__", None)
            # Two tasks may each have a module of this name.
            if place and Path(place).parent == folder and Path(place).stem == name:
                del sys.modules[name]
