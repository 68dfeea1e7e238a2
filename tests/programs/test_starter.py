from __future__ import annotations

from pathlib import Path

import pytest

from dspy_toolkit.errors import InvalidInput
from dspy_toolkit.programs.starter import new_task
from dspy_toolkit.programs.task import load_task


@pytest.mark.parametrize("name", ["mine", "my-task", "2nd_try"])
def test_a_new_task_loads_at_once(tmp_path: Path, name: str) -> None:
    task = load_task(new_task(tmp_path / name))

    assert task.name == name
    assert task.model == "embedded"
    assert [len(task.data.split(split).examples) for split in ("train", "test")] == [30, 60]
    assert "{" not in (tmp_path / name / "README.md").read_text()


def test_a_new_task_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")

    with pytest.raises(InvalidInput, match="already exists"):
        new_task(tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_a_name_that_no_task_may_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'My Task' must be small letters"):
        new_task(tmp_path / "My Task")
    assert list(tmp_path.iterdir()) == []
