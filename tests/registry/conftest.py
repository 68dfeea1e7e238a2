from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, so that no test sees the signatures of whoever runs it."""
    folder = tmp_path / "home"
    monkeypatch.setenv("DSPY_TK_HOME", str(folder))
    return folder
