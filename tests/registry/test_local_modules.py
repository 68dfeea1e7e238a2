from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from dspy_toolkit.registry.local_modules import importing_from, python_files
from tests.registry.making import write


def test_a_module_of_the_process_is_back_when_a_folder_has_one_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("host", "task"):
        write(tmp_path / name, f"WORD = {name!r}\n", "shared_words/inner.py")
    monkeypatch.syspath_prepend(tmp_path / "host")
    host = importlib.import_module("shared_words.inner")

    with importing_from(tmp_path / "task") as files:
        task = importlib.import_module("shared_words.inner")

    assert (host.WORD, task.WORD) == ("host", "task")
    assert sys.modules["shared_words.inner"] is host
    assert files == [tmp_path / "task" / "shared_words" / "inner.py"]


def test_what_is_installed_stays_when_a_project_lies_around_it(tmp_path: Path) -> None:
    packages = tmp_path / "venv" / "site-packages"
    write(packages, "", "lately_installed.py")
    write(tmp_path, "raise RuntimeError\n", "pytest.py")
    sys.path.append(str(packages))
    try:
        with importing_from(tmp_path) as files:
            importlib.import_module("lately_installed")
            assert importlib.import_module("pytest") is pytest
        assert "lately_installed" in sys.modules
        assert files == []
    finally:
        sys.path.remove(str(packages))
        sys.modules.pop("lately_installed", None)


def test_everything_importable_is_listed_and_nothing_else(tmp_path: Path) -> None:
    for place in ("metric.py", "lib/words.py", "lib/deep/__init__.py", ".venv/x.py", "data/x.txt"):
        write(tmp_path, "", place)

    found = [file.relative_to(tmp_path).as_posix() for file in python_files(tmp_path)]

    assert found == ["metric.py", "lib/words.py", "lib/deep/__init__.py"]
