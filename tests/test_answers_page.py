"""The page on answers keeps what it says."""

from __future__ import annotations

import re
from pathlib import Path

import dspy
import pytest

from dspy_toolkit.engine.source import EMBEDDED_FOLDER

PAGE = Path(__file__).parents[1] / "docs" / "answers.md"


@pytest.mark.skipif(
    not (EMBEDDED_FOLDER / "config.json").is_file(), reason="the embedded model is not here"
)
def test_every_example_of_the_page_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DSPY_TK_HOME", str(tmp_path))
    monkeypatch.setenv("DSPY_TK_DEVICE", "cpu")
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    here: dict[str, object] = {"__name__": "page"}
    for example in examples:
        exec(compile(example, str(PAGE), "exec", dont_inherit=True), here)
    dspy.cache.disk_cache.close()

    assert len(examples) >= 6
