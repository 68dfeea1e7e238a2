"""Importing Python that lies in a user's folder, so that no two folders' modules ever meet."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# To import these anew would give every type that the process holds a second time.
_SHARED = {"__main__", "dspy_toolkit", *sys.stdlib_module_names}
_INSTALLED = {"site-packages", "dist-packages"}
lock = threading.RLock()
"""Held while a folder's modules are imported: the process has one table of modules."""


def python_files(folder: Path) -> tuple[Path, ...]:
    """Everything that can be imported from a folder: its modules, and all files of its packages."""
    found = sorted(folder.glob("*.py"))
    for package in _packages(folder):
        found += python_files(package)
    return tuple(found)


def holds(folder: Path, name: str) -> bool:
    """Whether a module or package of this name lies in a folder."""
    return name in _names(folder)


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[list[Path]]:
    """Let imports find a folder's modules first, and forget those afterwards.

    What the process has imported from elsewhere under their names is back when the block ends.
    Nothing is written into the folder. An import that runs later, inside a function, does not
    find the folder any more.

    Args:
        folder: absolute.

    Yields:
        A list that holds the files of the imported modules once the block has ended.
    """
    files: list[Path] = []
    with lock:
        writes = sys.dont_write_bytecode
        # An artifact's folder must stay as its manifest says.
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        hidden = _taken({name for name in _names(folder) - _SHARED if not _installed(name)})
        before = {_top(name) for name in sys.modules}
        try:
            yield files
        finally:
            new = {_top(name) for name in sys.modules} - before
            gone = _taken({name for name in new if _lies_in(name, folder)})
            files += [Path(file) for each in gone.values() if (file := _file(each))]
            sys.modules.update(hidden)
            sys.dont_write_bytecode = writes
            with contextlib.suppress(ValueError):
                sys.path.remove(str(folder))


def _packages(folder: Path) -> list[Path]:
    return [
        inner
        for inner in sorted(folder.iterdir())
        if inner.name.isidentifier() and inner.is_dir() and any(inner.glob("*.py"))
    ]


def _names(folder: Path) -> set[str]:
    modules = {file.stem for file in folder.glob("*.py")}
    return modules | {package.name for package in _packages(folder)}


def _top(name: str) -> str:
    return name.partition(".")[0]


def _taken(names: set[str]) -> dict[str, ModuleType]:
    """Take modules, with all that is inside them, out of the process's table."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if _top(name) in names}


def _file(module: ModuleType | None) -> str | None:
    return getattr(module, "__file__", None)


def _roots(name: str) -> list[Path]:
    """Where a module lies: its file, or the folders of a package that has no file of its own."""
    module = sys.modules.get(name)
    file = _file(module)
    return [Path(each) for each in ([file] if file else getattr(module, "__path__", []))]


def _installed(name: str) -> bool:
    roots = _roots(name)
    return not roots or any(_INSTALLED.intersection(each.parts) for each in roots)


def _lies_in(name: str, folder: Path) -> bool:
    return any(
        folder == (each.parent.parent if each.name == "__init__.py" else each.parent)
        for each in _roots(name)
    )
